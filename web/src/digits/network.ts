// An exported score, run by onnxruntime.
import type { InferenceSession, Tensor } from "onnxruntime-web";
import type { Score, Values } from "../maths/samplers.ts";
import { type Load, sizeOf } from "./task.ts";

type Runtime = typeof import("onnxruntime-web");
const LEVELS = [0.05, 2]; // on which a graphics processor's answer is checked
const LABEL = [0];
const OFF = 1e-3; // relative to the largest number

export class Network {
  evaluations = 0;

  constructor(
    private readonly runtime: Runtime,
    private readonly session: InferenceSession,
    private readonly shape: readonly number[],
  ) {}

  /** The score, given a class for each image, −1 for none. */
  score(labels: readonly number[]): Score {
    const { Tensor: Input } = this.runtime;
    const n = labels.length;
    return async (x, sigma) => {
      const feeds: Record<string, Tensor> = {
        x: new Input("float32", Float32Array.from(x), [n, ...this.shape]),
        sigma: new Input("float32", new Float32Array(n).fill(sigma), [n]),
      };
      if (this.session.inputNames.includes("label")) {
        feeds.label = new Input("int64", BigInt64Array.from(labels, BigInt), [n]);
      }
      const { score } = await this.session.run(feeds);
      this.evaluations++;
      return Float64Array.from(score.data as Float32Array);
    };
  }
}

/** The network, and the smaller one that guides, if there is one.  Raises an error if the device does not compute what it should. */
export async function networks({ card, device, runtime, model, guide }: Load): Promise<[Network, Network | undefined]> {
  const ort: Runtime =
    device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1; // more need headers that not every host sends
  ort.env.logLevel = "error";
  const { shape } = card.recipe;
  const load = async (file: ArrayBuffer, by: string): Promise<Network> => {
    const options: InferenceSession.SessionOptions = { executionProviders: [by], logSeverityLevel: 3 };
    return new Network(ort, await ort.InferenceSession.create(new Uint8Array(file), options), shape);
  };
  const network = await load(model, device);
  if (device === "webgpu") await check(network, await load(model, "wasm"), sizeOf(shape));
  return [network, guide && (await load(guide, device))];
}

/** Whether two devices agree on the same image. */
async function check(a: Network, b: Network, size: number): Promise<void> {
  const most = (values: Values): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (const sigma of LEVELS) {
    const x: Values = Float64Array.from({ length: size }, (_, i) => 0.5 + sigma * Math.sin(i * i));
    const [mine, theirs] = [await a.score(LABEL)(x, sigma), await b.score(LABEL)(x, sigma)];
    const off = most(mine.map((value, i) => value - theirs[i])) / most(theirs);
    if (!(off < OFF)) throw new Error(`the graphics processor is off by ${off.toExponential(1)} at σ = ${sigma}`);
  }
}
