// An exported score, run by onnxruntime.
import type { InferenceSession, Tensor } from "onnxruntime-web";
import type { Score, Values } from "../maths/samplers.ts";
import type { Device, Order } from "./messages.ts";

type Runtime = typeof import("onnxruntime-web");
const LEVELS = [0.05, 2]; // on which a graphics processor's answer is checked
const LABEL = [0];
const OFF = 1e-3; // relative to the largest number

export class Network {
  readonly #runtime: Runtime;
  readonly #session: InferenceSession;
  readonly #shape: readonly number[];
  evaluations = 0;

  constructor(runtime: Runtime, session: InferenceSession, shape: readonly number[]) {
    [this.#runtime, this.#session, this.#shape] = [runtime, session, shape];
  }

  /** The score, given a class for each image, −1 for none. */
  score(labels: readonly number[]): Score {
    return async (x, sigma) => {
      const { Tensor: Made } = this.#runtime;
      const n = labels.length;
      const feeds: Record<string, Tensor> = {
        x: new Made("float32", Float32Array.from(x), [n, ...this.#shape]),
        sigma: new Made("float32", new Float32Array(n).fill(sigma), [n]),
      };
      if (this.#session.inputNames.includes("label")) feeds.label = new Made("int64", BigInt64Array.from(labels, BigInt), [n]);
      const { score } = await this.#session.run(feeds);
      this.evaluations++;
      return Float64Array.from(score.data as Float32Array);
    };
  }
}

/** The network, and the smaller one that guides, if there is one.  Raises an error if the device does not compute what it should. */
export async function networks({ card, device, runtime, model, guide }: Extract<Order, { kind: "load" }>): Promise<{ network: Network; smaller: Network | undefined }> {
  const ort: Runtime = device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1; // more need headers that not every host sends
  ort.env.logLevel = "error";
  const { shape } = card.recipe;
  const made = async (file: ArrayBuffer, by: Device): Promise<Network> =>
    new Network(ort, await ort.InferenceSession.create(new Uint8Array(file), { executionProviders: [by], logSeverityLevel: 3 }), shape);
  const network = await made(model, device);
  if (device === "webgpu") await check(network, await made(model, "wasm"), shape);
  return { network, smaller: guide && (await made(guide, device)) };
}

/** Whether two devices agree on the same image. */
async function check(a: Network, b: Network, shape: readonly number[]): Promise<void> {
  const size = shape.reduce((product, length) => product * length, 1);
  for (const sigma of LEVELS) {
    const x: Values = Float64Array.from({ length: size }, (_, i) => 0.5 + sigma * Math.sin(i * i));
    const [mine, theirs] = [await a.score(LABEL)(x, sigma), await b.score(LABEL)(x, sigma)];
    const largest = theirs.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const off = mine.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i])), 0) / largest;
    if (!(off < OFF)) throw new Error(`the graphics processor is off by ${off.toExponential(1)} at σ = ${sigma}`);
  }
}
