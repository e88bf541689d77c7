// Fetches the model and its runtime with progress, and loads them into workers, each of which samples some of the images.
import runtimeCpu from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import runtimeGpu from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import { announce } from "../ui.ts";
import { type Drawn, type Load, type Order, type Report, type Task, read } from "./task.ts";

const MOST_WORKERS = 3;
const MODEL = "model.onnx";
const GUIDE = "model.guide.onnx";
/** A function that returns a vector; browsers accept it if their WebAssembly has SIMD. */
const VECTORS = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/** What is being done, and the fraction that is done, if known. */
export type Progress = (message: string, share?: number) => void;

/** All images at one noise level; at the end, denoised. ``share`` is the fraction that is done. */
export type State = Omit<Drawn, "kind" | "ticket"> & { seconds: number; share: number };

/** Fetches and starts the model on the GPU or, if that fails, on the CPU, and says why. */
export async function start(wanted: string, progress: Progress): Promise<Engine> {
  if (!WebAssembly.validate(VECTORS)) throw new Error("this browser is too old: its WebAssembly has no SIMD");
  const gpu = wanted === "webgpu" || (wanted === "auto" && (await hasGraphics()));
  const [model, runtime] = await fetched([MODEL, gpu ? runtimeGpu : runtimeCpu], progress);
  const card = read(new Uint8Array(model));
  const { guide, guidance } = card.recipe.sampling;
  const [smaller] = guide === "smaller" && guidance !== 1 ? await fetched([GUIDE], progress) : [];
  const files = { card, model, guide: smaller };
  if (!gpu) return load({ ...files, runtime, device: "wasm" }, progress);
  try {
    return await load({ ...files, runtime, device: "webgpu" }, progress);
  } catch (error) {
    const [why] = String(error instanceof Error ? error.message : error).split("\n");
    const [other] = await fetched([runtimeCpu], progress);
    return load(
      { ...files, runtime: other, device: "wasm" },
      progress,
      `WebGPU cannot be used: ${why.replace(/\.$/, "")}`,
    );
  }
}

/** Whether WebGPU has a real GPU rather than a software emulation. */
async function hasGraphics(): Promise<boolean> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info.isFallbackAdapter);
}

export type Engine = Awaited<ReturnType<typeof load>>;

/** The workers. ``title`` says what computes, and ``note`` why nothing faster does. */
async function load(files: Omit<Load, "kind">, progress: Progress, note = "") {
  const { card, device, model } = files;
  const count = device === "webgpu" ? 1 : Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency - 1));
  progress("Preparing the model.");
  const create = (): Worker => new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const workers = Array.from({ length: count }, create);
  const threads = count === 1 ? "one thread" : `${count} threads`;
  let current = 0; // the ticket of what is being drawn

  /** Samples images and reports each state once all workers have reached it; cancels the previous task. */
  function draw(task: Task, heard: (state: State) => void): void {
    rest();
    const [ticket, begun] = [current, performance.now()];
    const shares = divided(task, count);
    const queues: Drawn[][] = shares.map(() => []);
    let states = 0;
    shares.forEach((share, i) => {
      workers[i].onmessage = ({ data }: MessageEvent<Report>): void => {
        if (data.kind === "failed") return announce(`Drawing failed: ${data.why}. Reload the page to try again.`);
        if (data.kind !== "state" || data.ticket !== current) return;
        queues[i].push(data);
        if (!queues.every((reports) => reports.length > 0)) return;
        const reports = queues.map((queue) => queue.shift() as Drawn);
        const x = new Float32Array(reports.reduce((sum, report) => sum + report.x.length, 0));
        reports.forEach((report, i) => x.set(report.x, i * reports[0].x.length)); // the last may have fewer
        states++;
        const share = reports[0].last ? 1 : states / (task.levels.length + 1);
        heard({ ...reports[0], x, share, seconds: (performance.now() - begun) / 1000 });
      };
      workers[i].postMessage({ kind: "draw", ticket, task: share } satisfies Order);
    });
  }

  /** Cancels the current task. */
  function rest(): void {
    current++;
    for (const worker of workers) worker.postMessage({ kind: "stop" } satisfies Order);
  }

  try {
    await Promise.all(workers.map((worker) => ready(worker, { kind: "load", ...files })));
  } catch (error) {
    for (const worker of workers) worker.terminate();
    throw error;
  }
  const title = device === "webgpu" ? "WebGPU" : `WebAssembly, ${threads}`;
  return { card, bytes: model.byteLength, title, note, draw, rest };
}

/** Splits a task into consecutive images for each worker. */
function divided(task: Task, count: number): Task[] {
  const { labels, noise } = task;
  if (noise instanceof Float32Array) return [task];
  const each = Math.ceil(labels.length / count);
  return Array.from({ length: Math.ceil(labels.length / each) }, (_, i) => {
    const [from, to] = [i * each, (i + 1) * each];
    return { ...task, labels: labels.slice(from, to), noise: noise.slice(from, to) };
  });
}

/** Sends a worker its first message. */
function ready(worker: Worker, order: Load): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<Report>) => {
      if (data.kind === "failed") reject(new Error(data.why));
      else resolve();
    };
    worker.onerror = (event) => reject(new Error(event.message || "a worker cannot be started"));
    worker.postMessage(order);
  });
}

/** Fetches files in parallel and reports their total progress. */
async function fetched(addresses: string[], progress: Progress): Promise<ArrayBuffer[]> {
  const answers = await Promise.all(addresses.map((address) => fetch(new URL(address, document.baseURI))));
  for (const { ok, status, url } of answers) {
    if (!ok) throw new Error(`a file is missing (${status} at ${new URL(url).pathname})`);
  }
  // The length of encoded files isn’t that of their content.
  const lengths = answers.map(({ headers: h }) => (h.has("Content-Encoding") ? 0 : Number(h.get("Content-Length"))));
  const all = lengths.includes(0) ? 0 : lengths.reduce((sum, length) => sum + length, 0);
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  let size = 0;
  const content = async (answer: Response): Promise<ArrayBuffer> => {
    const parts: Uint8Array<ArrayBuffer>[] = [];
    for (const reader = (answer.body as ReadableStream<Uint8Array<ArrayBuffer>>).getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return new Blob(parts).arrayBuffer();
      parts.push(value);
      size += value.length;
      const [of, share] = all > 0 ? [` of ${megabytes(all)}`, size / all] : ["", undefined];
      progress(`Loading the model and its runtime: ${megabytes(size)}${of} MB.`, share);
    }
  };
  return Promise.all(answers.map(content));
}
