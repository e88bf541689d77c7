// A worker that trains and reports a few times per second, so that the page stays responsive.
import { gridPoints } from "../maths/plane.ts";
import { type Order, SIGMAS, type Training, trainingOf } from "./training.ts";

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

/** Trains until the next report is due; messages are handled between reports. */
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

/** The progress of training, and the scores at the visible level. */
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
    error: training.errorMap(sigma),
    ...training.measured(),
  };
}
