// The model and what computes it: fetched with progress, loaded into workers, each of which draws a share of the images.
import runtimeCpu from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import runtimeGpu from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import { announce } from "../ui.ts";
import { type Drawn, type Load, type Order, type Report, type Task, read } from "./task.ts";

const MOST_WORKERS = 3;
const MODEL = "model.onnx";
const GUIDE = "model.guide.onnx";
/** A function that returns a vector, which a browser accepts if its WebAssembly has SIMD. */
const VECTORS = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/** What is done, and which share of it, if that is known. */
export type Progress = (message: string, share?: number) => void;

/** All images at one noise level, in a row; the last one when all are denoised.  ``share`` is how much of the way is done. */
export type State = Omit<Drawn, "kind" | "ticket"> & { seconds: number; share: number };

/** Fetches what is needed, and starts it; where a graphics processor does not do it, on the processor, and says why. */
export async function start(wanted: string, progress: Progress): Promise<Engine> {
  if (!WebAssembly.validate(VECTORS)) throw new Error("this browser is too old for it: its WebAssembly has no SIMD");
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

/** Whether there is a graphics processor that WebGPU speaks to, and not a program that plays one. */
async function hasGraphics(): Promise<boolean> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info.isFallbackAdapter);
}

export type Engine = Awaited<ReturnType<typeof load>>;

/** Who draws: a ``title`` says who computes, a ``note`` why nobody better does. */
async function load(files: Omit<Load, "kind">, progress: Progress, note = "") {
  const { card, device, model } = files;
  const count = device === "webgpu" ? 1 : Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency - 1));
  progress("The model is being prepared.");
  const create = (): Worker => new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const workers = Array.from({ length: count }, create);
  const threads = count === 1 ? "one thread" : `${count} threads`;
  let current = 0; // the ticket of what is being drawn

  /** Draw images, and tell of every state, once all workers are there; what was being drawn is given up. */
  function draw(task: Task, heard: (state: State) => void): void {
    rest();
    const [ticket, begun] = [current, performance.now()];
    const shares = divided(task, count);
    const queues: Drawn[][] = shares.map(() => []);
    let states = 0;
    shares.forEach((share, i) => {
      workers[i].onmessage = ({ data }: MessageEvent<Report>): void => {
        if (data.kind === "failed") return announce(`Drawing has failed: ${data.why}. Reload the page to try again.`);
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

  /** Give up what is being drawn. */
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

/** Shares of a task for so many workers: each has some of its images, next to each other. */
function divided(task: Task, count: number): Task[] {
  const { labels, noise } = task;
  if (noise instanceof Float32Array) return [task];
  const each = Math.ceil(labels.length / count);
  return Array.from({ length: Math.ceil(labels.length / each) }, (_, i) => {
    const [from, to] = [i * each, (i + 1) * each];
    return { ...task, labels: labels.slice(from, to), noise: noise.slice(from, to) };
  });
}

/** Give a worker its first order. */
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

/** Fetches files side by side, and says how much is there of all of them. */
async function fetched(addresses: string[], progress: Progress): Promise<ArrayBuffer[]> {
  const answers = await Promise.all(addresses.map((address) => fetch(new URL(address, document.baseURI))));
  for (const { ok, status, url } of answers) {
    if (!ok) throw new Error(`a file is not there (${status} at ${new URL(url).pathname})`);
  }
  // What is encoded has another length.
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
      progress(`Loading the model and the program that computes it: ${megabytes(size)}${of} MB.`, share);
    }
  };
  return Promise.all(answers.map(content));
}
