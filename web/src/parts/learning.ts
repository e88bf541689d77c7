// Part 3: a network learns a score as one watches; learned, exact, and the error between them.
import { type Axis, Chart, type Line } from "../draw/chart.ts";
import { Panel, arrowCount, arrows, css, frames, heat } from "../draw/stage.ts";
import { type Errors, LEVELS, type Order, SIGMAS } from "../learning/training.ts";
import type { Report } from "../learning/worker.ts";
import { DISTRIBUTIONS, TITLES } from "../maths/distributions.ts";
import { Mulberry } from "../maths/plane.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, button, calm, el, primary, readings, row, short, slider } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const STEPS = 3000; // after which it pauses
const DRAWS = 500;
const LEVEL = { value: LEVELS, min: 1, max: LEVELS, whole: true };
const ERROR_AXIS: Axis = { range: [1e-4, 10], ticks: [0.001, 0.01, 0.1, 1, 10], log: true };
const SETTINGS = {
  data: { label: "Data", value: "circle", options: TITLES },
  level: LEVEL,
  seed: SEED,
};

export const open: Open = (query, signal) => {
  const settings = new Settings("learning", SETTINGS, query);
  const { values } = settings;
  const worker = new Worker(new URL("../learning/worker.ts", import.meta.url), { type: "module" });
  signal.addEventListener("abort", () => worker.terminate());
  const order = (what: Order): void => worker.postMessage(what);
  let report: Report | undefined;
  let history: { step: number; errors: Errors }[] = [];
  let training = 0; // which one it is: reports of the one before may still be on their way

  const redraw = frames(draw, signal);
  const exact = new Panel("Exact", "The exact score as arrows", look, signal);
  const learned = new Panel("Learned", "The learned score as arrows", redraw, signal);
  const error = new Panel("Error", "The relative error as colour, with noised data", redraw, signal);
  const byStep = new Chart("Relative error at this noise level, by training step", redraw, signal);
  const bySigma = new Chart("Relative error by noise level, now", redraw, signal);
  const numbers = readings({
    step: "Training step",
    loss: "Loss of the last steps",
    data: "Error where the data lies",
    square: "Error over the square",
  });

  function begin(): void {
    history = [];
    look();
    order({ kind: "begin", training: ++training, terms: { data: values.data, seed: values.seed } });
    if (!calm()) order({ kind: "run", steps: STEPS });
  }

  /** At which level, and as how many arrows. */
  function look(): void {
    order({ kind: "view", level: values.level - 1, count: arrowCount(exact) });
  }

  worker.onmessage = ({ data }: MessageEvent<Report>): void => {
    if (data.training !== training) return;
    report = data;
    if (data.step > (history.at(-1)?.step ?? -1)) history.push({ step: data.step, errors: data.errors });
    pause.textContent = data.running ? "Pause" : data.step > 0 ? "Train on" : "Train";
    redraw();
  };
  worker.onerror = (event) => announce(`Training has failed: ${event.message}`);

  function draw(): boolean {
    if (!report) return false;
    const { sigma, count, errors, step, loss } = report;
    const { exact: right, learned: guess, error: off, cells } = report;
    const note = `σ = ${short(sigma)}`;
    exact.paint(note, () => arrows(exact, right, count));
    learned.paint(note, () => arrows(learned, guess, count));
    error.paint(note, () => {
      // From 1 % to 100 %, by its logarithm.
      const opacity = (value: number): number => Math.min(1, Math.max(0, 1 + Math.log10(value) / 2));
      heat(error, { cells, values: off }, error.theme.accent, opacity);
      const random = new Mulberry(2);
      const draws = DISTRIBUTIONS[values.data].make().sample(DRAWS, random);
      const noised = draws.map((value) => value + sigma * random.normal());
      error.dots(noised, css(error.theme.ink, 0.7), 1.6);
    });
    const level = values.level - 1;
    const steps = history.map(({ step }) => step);
    const last = Math.max(STEPS, step);
    const lines = (x: ArrayLike<number>, of: (name: keyof Errors) => number[]): Line[] => [
      { x, y: of("square"), title: "over the square" },
      { x, y: of("data"), bold: true, title: "where data lies" },
    ];
    const stepErrors = lines(steps, (name) => history.map(({ errors }) => errors[name][level]));
    byStep.draw("Error by step", { range: [0, last], ticks: [0, last] }, ERROR_AXIS, stepErrors);
    const sigmaErrors = lines(SIGMAS, (name) => errors[name]);
    bySigma.draw("Error by σ", { range: [0.1, 20], ticks: [0.1, 1, 10], log: true }, ERROR_AXIS, sigmaErrors);
    numbers.say("step", String(step));
    numbers.say("loss", Number.isNaN(loss) ? "none yet" : short(loss));
    for (const name of ["data", "square"] as const) numbers.say(name, `${short(100 * errors[name][level])} %`);
    return false;
  }

  const pause = primary("Pause", () => order(report?.running ? { kind: "pause" } : { kind: "run", steps: STEPS }));
  const again = button("Begin anew", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    begin();
  });
  // The slider goes from small to large, while levels count from the largest.
  const fromSmallest = { ...LEVEL, label: "Noise level σ", say: (place: number) => short(SIGMAS[LEVELS - place]) };
  const levels = slider(fromSmallest, LEVELS + 1 - values.level, (place) => {
    settings.set({ level: LEVELS + 1 - place });
    look();
  });
  settings.write();
  begin();
  return layout(
    "learning",
    [el("div", { class: "side" }, exact.figure, learned.figure, error.figure)],
    [row(pause, again), settings.control("data", begin), levels.element, numbers.element],
    [el("div", { class: "charts" }, byStep.element, bySigma.element)],
  );
};
