// The model and what computes it: fetched with progress, loaded into workers, each of which draws a share of the images.
import runtimeCpu from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import runtimeGpu from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import { type Card, read } from "./card.ts";
import type { Device, Order, Report, Task } from "./messages.ts";

const MOST_WORKERS = 3;
const MODEL = "model.onnx";
const GUIDE = "model.guide.onnx";

/** What is done, and which share of it, if that is known. */
export type Progress = (message: string, share?: number) => void;

/** All images at one noise level, in a row. */
export interface State {
  sigma: number;
  x: Float32Array;
  evaluations: number;
  /** Whether all are denoised. */
  last: boolean;
  seconds: number;
}

/** Fetches what is needed, and starts it; where a graphics processor does not do it, on the processor, and says why. */
export async function start(wanted: string, progress: Progress): Promise<Engine> {
  const model = await fetched(new URL(MODEL, document.baseURI).href, "the model", progress);
  const card = read(new Uint8Array(model));
  const { guide, guidance } = card.recipe.sampling;
  const smaller = guide === "smaller" && guidance !== 1 ? await fetched(new URL(GUIDE, document.baseURI).href, "the model that guides", progress) : undefined;
  let note = "";
  if (wanted === "webgpu" || (wanted === "auto" && (await hasGraphics()))) {
    try {
      return await Engine.load(card, "webgpu", model, smaller, 1, progress);
    } catch (error) {
      note = `WebGPU cannot be used: ${String(error instanceof Error ? error.message : error).split("\n")[0].replace(/\.$/, "")}`;
    }
  }
  const workers = Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency - 1));
  const engine = await Engine.load(card, "wasm", model, smaller, workers, progress);
  engine.note = note;
  return engine;
}

/** Whether there is a graphics processor that WebGPU speaks to, and not a program that plays one. */
async function hasGraphics(): Promise<boolean> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info.isFallbackAdapter);
}

export class Engine {
  note = "";
  readonly card: Card;
  readonly device: Device;
  readonly #workers: Worker[];
  #ticket = 0;

  private constructor(card: Card, device: Device, workers: Worker[]) {
    [this.card, this.device, this.#workers] = [card, device, workers];
  }

  static async load(card: Card, device: Device, model: ArrayBuffer, guide: ArrayBuffer | undefined, count: number, progress: Progress): Promise<Engine> {
    const runtime = await fetched(device === "webgpu" ? runtimeGpu : runtimeCpu, "the program that computes it", progress);
    progress("The model is being prepared.");
    const workers = Array.from({ length: count }, () => new Worker(new URL("./worker.ts", import.meta.url), { type: "module" }));
    const engine = new Engine(card, device, workers);
    try {
      await Promise.all(workers.map((worker) => ready(worker, { kind: "load", card, device, runtime, model, guide })));
    } catch (error) {
      engine.stop();
      throw error;
    }
    return engine;
  }

  /** Who computes, in words. */
  get title(): string {
    const count = this.#workers.length;
    return this.device === "webgpu" ? "WebGPU" : count === 1 ? "WebAssembly, one thread" : `WebAssembly, ${count} threads`;
  }

  /** Draw images, and tell of every state, once all workers are there; what was being drawn is given up. */
  draw(task: Task, heard: (state: State) => void, failed: (why: string) => void): void {
    this.rest();
    const [ticket, begun] = [this.#ticket, performance.now()];
    const shares = divided(task, this.#workers.length);
    const come: Drawn[][] = shares.map(() => []);
    shares.forEach((share, i) => {
      const worker = this.#workers[i];
      worker.onmessage = ({ data }: MessageEvent<Report>): void => {
        if (data.kind === "failed") return failed(data.why);
        if (data.kind !== "state" || data.ticket !== this.#ticket) return;
        come[i].push(data);
        if (come.every((reports) => reports.length > 0)) heard(together(come.map((reports) => reports.shift() as Drawn), begun));
      };
      worker.postMessage({ kind: "draw", ticket, task: share } satisfies Order);
    });
  }

  /** Give up what is being drawn. */
  rest(): void {
    this.#ticket++;
    for (const worker of this.#workers) worker.postMessage({ kind: "stop" } satisfies Order);
  }

  stop(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}

type Drawn = Extract<Report, { kind: "state" }>;

/** What workers have drawn on the same noise level. */
function together(reports: Drawn[], begun: number): State {
  const x = new Float32Array(reports.reduce((sum, report) => sum + report.x.length, 0));
  let at = 0;
  for (const report of reports) {
    x.set(report.x, at);
    at += report.x.length;
  }
  const [{ sigma, last, evaluations }] = reports;
  return { sigma, x, evaluations, last, seconds: (performance.now() - begun) / 1000 };
}

/** Shares of a task for so many workers: each has some of its images, next to each other. */
function divided(task: Task, count: number): Task[] {
  const { labels, noise } = task;
  if (noise instanceof Float32Array) return [task];
  const each = Math.ceil(labels.length / count);
  const shares = Array.from({ length: Math.ceil(labels.length / each) }, (_, i) => [i * each, (i + 1) * each]);
  return shares.map(([from, to]) => ({ ...task, labels: labels.slice(from, to), noise: noise.slice(from, to) }));
}

/** Give a worker its first order. */
function ready(worker: Worker, order: Order): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<Report>) => (data.kind === "ready" ? resolve() : data.kind === "failed" && reject(new Error(data.why)));
    worker.onerror = (event) => reject(new Error(event.message || "a worker cannot be started"));
    worker.postMessage(order);
  });
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

async function fetched(address: string, what: string, progress: Progress): Promise<ArrayBuffer> {
  const answer = await fetch(address);
  if (!answer.ok || !answer.body) throw new Error(`${what} is not there (${answer.status} at ${new URL(address, location.href).pathname})`);
  const all = answer.headers.has("Content-Encoding") ? 0 : Number(answer.headers.get("Content-Length"));
  const parts: Uint8Array[] = [];
  let come = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    come += value.length;
    progress(`Loading ${what}: ${megabytes(come)}${all > 0 ? ` of ${megabytes(all)}` : ""} MB.`, all > 0 ? come / all : undefined);
  }
  return new Blob(parts as BlobPart[]).arrayBuffer();
}
