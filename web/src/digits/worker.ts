// A worker that samples images with an exported score and reports every state.
import type { InferenceSession, Tensor } from "onnxruntime-web";
import { denoised } from "../maths/langevin.ts";
import { Mulberry, type Points, sum } from "../maths/plane.ts";
import { METHODS, type Score, guided, replacement } from "../maths/samplers.ts";
import { type Load, type Order, type Report, type Task, sizeOf } from "./task.ts";

const CHECKED_AT = [0.05, 2]; // noise levels at which a graphics processor's answer is checked
const OFF = 1e-3; // relative to the largest number

/** The score, given a class for each image, −1 for none. */
type Network = (labels: readonly number[]) => Score;

let loaded: Awaited<ReturnType<typeof load>> | undefined;
let wanted = 0; // the ticket of what is to be drawn; 0 for nothing
let work: Promise<void> = Promise.resolve(); // one thing at a time

const say = (report: Report): void => postMessage(report);
const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

onmessage = ({ data: order }: MessageEvent<Order>): void => {
  wanted = order.kind === "draw" ? order.ticket : 0;
  work = work.then(() => obey(order)).catch((error) => say({ kind: "failed", why: reason(error) }));
};

async function obey(order: Order): Promise<void> {
  if (order.kind === "load") {
    loaded = await load(order);
    say({ kind: "ready" });
  } else if (order.kind === "draw") await draw(order.ticket, order.task);
}

/** The network and its guide, if there is one. Throws if the device computes wrong values. */
async function load({ card, device, runtime, model, guide }: Load) {
  const gpu = device === "webgpu";
  const ort = gpu ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1; // more need headers that not every host sends
  ort.env.logLevel = "error";
  const { shape } = card.recipe;
  const create = async (file: ArrayBuffer, by: string): Promise<Network> => {
    const options: InferenceSession.SessionOptions = { executionProviders: [by], logSeverityLevel: 3 };
    const session = await ort.InferenceSession.create(new Uint8Array(file), options);
    return (labels) => async (x, sigma) => {
      const n = labels.length;
      const feeds: Record<string, Tensor> = {
        x: new ort.Tensor("float32", Float32Array.from(x), [n, ...shape]),
        sigma: new ort.Tensor("float32", new Float32Array(n).fill(sigma), [n]),
      };
      const classes = BigInt64Array.from(labels, BigInt);
      if (session.inputNames.includes("label")) feeds.label = new ort.Tensor("int64", classes, [n]);
      const { score } = await session.run(feeds);
      return Float64Array.from(score.data as Float32Array);
    };
  };
  const network = await create(model, device);
  if (gpu) await check(network, await create(model, "wasm"), sizeOf(shape));
  return { card, network, smaller: guide && (await create(guide, device)) };
}

/** Whether two devices agree on the same image. */
async function check(a: Network, b: Network, size: number): Promise<void> {
  const most = (values: Points): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (const sigma of CHECKED_AT) {
    const x = Float64Array.from({ length: size }, (_, i) => 0.5 + sigma * Math.sin(i * i));
    const [mine, theirs] = [await a([0])(x, sigma), await b([0])(x, sigma)];
    const off = most(mine.map((value, i) => value - theirs[i])) / most(theirs);
    if (!(off < OFF)) throw new Error(`the graphics processor is off by ${off.toExponential(1)} at σ = ${sigma}`);
  }
}

async function draw(ticket: number, task: Task): Promise<void> {
  if (!loaded || ticket !== wanted) return;
  const { card, network, smaller } = loaded;
  const { sampling, shape } = card.recipe;
  const { labels, levels: sigmas, steps, eps, given } = task;
  const size = sizeOf(shape);
  const noise = normals(task.noise, labels.length, size);
  let evaluations = 0;
  const counted: Network = (labels) => {
    const score = network(labels);
    return (x, sigma) => {
      evaluations++;
      return score(x, sigma);
    };
  };
  // Start with the noise of the first level, around the mean of the class as the network sees it: ncsn/run/run.py.
  const start = sigmas.length > 1 ? sigmas[0] : sampling.sigma_max;
  const x = sum([1, await means(network, labels, sampling.sigma_max, size)], [start, noise()]);
  let score = counted(labels);
  // The guide is the smaller network, or the network itself without the class.
  const unconditional = labels[0] < 0 ? undefined : counted(labels.map(() => -1));
  const guide = sampling.guide === "smaller" ? smaller?.(labels) : unconditional;
  if (guide) score = guided(score, guide, task.guidance, sampling.guided_between);
  if (given) score = replacement(score, given.known, given.y, noise);
  for await (const { sigma, x: state } of METHODS[task.sampler].follow({ score, x, sigmas, steps, eps, noise })) {
    await breath();
    if (ticket !== wanted) return;
    say({ kind: "state", ticket, sigma, x: Float32Array.from(state), evaluations, last: sigma === 0 });
  }
}

/** The mean of each image’s class as the network sees it: mid-grey, denoised at the largest noise level. */
async function means(network: Network, labels: readonly number[], sigma: number, size: number): Promise<Points> {
  const classes = [...new Set(labels)];
  const x = new Float64Array(classes.length * size);
  const found = denoised(x, await network(classes)(x, sigma), sigma);
  const at = labels.map((label) => classes.indexOf(label) * size);
  return Float64Array.from({ length: labels.length * size }, (_, i) => found[at[Math.floor(i / size)] + (i % size)]);
}

/** Normal numbers for all images, from one seed per image so that images don’t depend on each other; or as listed. */
function normals(noise: number[] | Float32Array, n: number, size: number): () => Points {
  if (noise instanceof Float32Array) {
    let at = 0;
    return () => Float64Array.from(noise.subarray(at, (at += n * size)));
  }
  const randoms = noise.map((seed) => new Mulberry(seed));
  return () => Float64Array.from({ length: n * size }, (_, i) => randoms[Math.floor(i / size)].normal());
}

/** Yields to the event loop, so that pending orders are handled. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(0);
  });
}
