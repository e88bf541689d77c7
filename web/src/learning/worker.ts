// Trains apart from the page, so that the page stays alive, and reports a few times a second.
import { type Points, gridPoints } from "../maths/plane.ts";
import { type Order, type Report, Training } from "./training.ts";

const CELLS = 40; // of the picture of the error, a side
const EVERY = 300; // milliseconds between reports

let training: Training | undefined;
let which = 0;
let left = 0; // steps to be taken
let loss = Number.NaN;
let view = { level: 0, count: 15 };
let timer: ReturnType<typeof setTimeout> | undefined;

onmessage = ({ data: order }: MessageEvent<Order>): void => {
  if (order.kind === "begin")
    [training, which, left, loss] = [new Training(order.terms), order.training, 0, Number.NaN];
  else if (order.kind === "run") left = order.steps;
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
  let [sum, count] = [0, 0];
  while (left > 0 && performance.now() < until) {
    sum += training.learn();
    count++;
    left--;
  }
  loss = sum / count;
  report();
  timer = setTimeout(work);
}

function report(): void {
  if (!training) return;
  const sigma = training.levels[Math.min(view.level, training.levels.length - 1)];
  const [exact, learned] = both(gridPoints(view.count), sigma, training);
  const [truth, guess] = both(gridPoints(CELLS), sigma, training);
  const error = new Float64Array(CELLS * CELLS);
  for (let i = 0; i < error.length; i++) {
    const off = (guess[2 * i] - truth[2 * i]) ** 2 + (guess[2 * i + 1] - truth[2 * i + 1]) ** 2;
    error[i] = off / (truth[2 * i] ** 2 + truth[2 * i + 1] ** 2);
  }
  const { count } = view;
  const fields = { sigma, exact, learned, count, error, cells: CELLS, errors: training.errors() };
  postMessage({ training: which, step: training.step, loss, running: left > 0, ...fields } satisfies Report);
}

function both(x: Points, sigma: number, by: Training): [exact: Points, learned: Points] {
  const [exact, learned] = [new Float64Array(x.length), new Float64Array(x.length)];
  by.truth.score(x, sigma, exact);
  by.score(x, sigma, learned);
  return [exact, learned];
}
