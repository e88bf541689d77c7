// Draws images apart from the page, and reports every state on their way out of the noise.
import { METHODS, type Score, type Values, guided, replacement, sum, tweedie } from "../maths/samplers.ts";
import { Mulberry } from "../maths/plane.ts";
import { type Card, type Order, type Report, type Task, sizeOf } from "./task.ts";
import { type Network, networks } from "./network.ts";

interface Loaded {
  card: Card;
  network: Network;
  smaller: Network | undefined;
}

let loaded: Loaded | undefined;
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
    const [network, smaller] = await networks(order);
    loaded = { card: order.card, network, smaller };
    say({ kind: "ready" });
  } else if (order.kind === "draw") await draw(order.ticket, order.task);
}

async function draw(ticket: number, task: Task): Promise<void> {
  if (!loaded || ticket !== wanted) return;
  const { card, network } = loaded;
  const { sampling } = card.recipe;
  const { labels, levels: sigmas, steps, eps } = task;
  const [size, n] = [sizeOf(card.recipe.shape), labels.length];
  const noise = normals(task.noise, n, size);
  let score: Score = network.score(labels);
  // Around the mean of its class, as the network knows it, in as much noise as the first level has: src/ncsn/sampling.py.
  const start = sigmas.length > 1 ? sigmas[0] : sampling.sigma_max;
  const x = sum([1, await means(network, labels, sampling.sigma_max, size)], [start, noise()]);
  const before = network.evaluations;
  const guide = guideOf(task, loaded);
  if (guide) score = guided(score, guide, task.guidance, sampling.guided_between);
  if (task.given) score = replacement(score, task.given.known, task.given.y, noise);
  for await (const state of METHODS[task.sampler].follow({ score, x, sigmas, steps, eps, noise })) {
    await breath();
    if (ticket !== wanted) return;
    const evaluations = network.evaluations - before;
    const { sigma } = state;
    say({ kind: "state", ticket, sigma, x: Float32Array.from(state.x), evaluations, last: sigma === 0 });
  }
}

/** What images move away from: the smaller network, or the network itself without the class. */
function guideOf({ labels }: Task, { card, network, smaller }: Loaded): Score | undefined {
  if (card.recipe.sampling.guide === "smaller") return smaller?.score(labels);
  return labels[0] < 0 ? undefined : network.score(labels.map(() => -1));
}

/** The mean of each image's class as the network knows it: the denoised middle at the largest noise level. */
async function means(network: Network, labels: readonly number[], sigma: number, size: number): Promise<Values> {
  const classes = [...new Set(labels)];
  const found = await tweedie(network.score(classes), new Float64Array(classes.length * size), sigma);
  const at = labels.map((label) => classes.indexOf(label) * size);
  return Float64Array.from({ length: labels.length * size }, (_, i) => found[at[Math.floor(i / size)] + (i % size)]);
}

/** Normal numbers for all images at once: from each one's own seed, so that it does not depend on the others; or as listed. */
function normals(noise: number[] | Float32Array, n: number, size: number): () => Values {
  if (noise instanceof Float32Array) {
    let at = 0;
    return () => Float64Array.from(noise.subarray(at, (at += n * size)));
  }
  const randoms = noise.map((seed) => new Mulberry(seed));
  return () => Float64Array.from({ length: n * size }, (_, i) => randoms[Math.floor(i / size)].normal());
}

/** Lets orders be heard that have come meanwhile. */
function breath(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(0);
  });
}
