// Trains apart from the page, so that the page stays alive, and reports a few times a second.
import { type Grid, gridPoints } from "../maths/plane.ts";
import { type Order, SIGMAS, type Training, relativeError, trainingOf } from "./training.ts";

const CELLS = 40; // a side, where the picture of the error is coarse
const EVERY = 500; // milliseconds between reports

let training: Training | undefined;
let which = 0;
let left = 0; // steps to be taken
let view = { level: 0, count: 15 };
let timer: ReturnType<typeof setTimeout> | undefined;

onmessage = ({ data: order }: MessageEvent<Order>): void => {
  if (order.kind === "begin") {
    [training, which, left] = [trainingOf(order.terms), order.training, 0];
  } else if (order.kind === "run") left = order.steps;
  else if (order.kind === "pause") left = 0;
  else view = order;
  if (left === 0) report();
  clearTimeout(timer);
  timer = setTimeout(work);
};

/** Steps until the next report is due; orders are heard between reports. */
function work(): void {
  if (!training || left === 0) return;
  const until = performance.now() + EVERY;
  while (left > 0 && performance.now() < until) {
    training.learn();
    left--;
  }
  report();
  timer = setTimeout(work);
}

function report(): void {
  if (training) postMessage(reportOf(training));
}

export type Report = ReturnType<typeof reportOf>;

/** Where training is, and the fields at the level that is looked at. */
function reportOf(training: Training) {
  const sigma = SIGMAS[view.level];
  const points = gridPoints(view.count);
  return {
    training: which, // as it was begun
    running: left > 0,
    sigma,
    exact: training.truth.score(points, sigma), // at the centres of count × count squares
    learned: training.score(points, sigma),
    count: view.count,
    error: errorOf(training, sigma),
    ...training.measured(),
  };
}

/** The error over the square: on fine cells where there is data, elsewhere on coarse ones. */
function errorOf({ truth, score }: Training, sigma: number): Grid {
  const { cells, values: density } = truth.density(sigma); // on cells as fine as the data needs
  const peak = density.reduce((a, b) => Math.max(a, b), 0);
  const fine = Array.from(density.keys()).filter((at) => density[at] > peak / 10);
  const places = gridPoints(cells);
  const x = Float64Array.of(...gridPoints(CELLS), ...fine.flatMap((at) => [places[2 * at], places[2 * at + 1]]));
  const [exact, learned] = [truth.score(x, sigma), score(x, sigma)];
  const error = (i: number): number => relativeError(learned, exact, 2 * i, 2 * i + 2);
  const coarse = (i: number): number => Math.floor(((i + 0.5) / cells) * CELLS);
  const values = density.map((_, at) => error(coarse(Math.floor(at / cells)) * CELLS + coarse(at % cells)));
  fine.forEach((at, i) => (values[at] = error(CELLS ** 2 + i)));
  return { cells, values };
}
