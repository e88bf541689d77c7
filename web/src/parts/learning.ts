// Part 3: a network learns a score live; the learned score, the exact one, and the error.
import { type Axis, Chart } from "../draw/chart.ts";
import { Panel, arrowCount, arrows, css, frames, heat } from "../draw/stage.ts";
import { type Errors, LEVELS, type Order, SIGMAS } from "../learning/training.ts";
import type { Report } from "../learning/worker.ts";
import { DISTRIBUTIONS, TITLES } from "../maths/distributions.ts";
import { Mulberry, VIEW } from "../maths/plane.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, button, calm, el, primary, readings, row, short, slider, tell } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const STEPS = 3000; // after which it pauses
const DRAWS = 500;
const LEVEL = { value: LEVELS, min: 1, max: LEVELS, whole: true };
const PERCENT: Axis = { range: [0.01, 1000], ticks: [0.1, 1, 10, 100], log: true };
const STYLES = [{ title: "over the square" }, { title: "on the data", bold: true }];
const SETTINGS = { data: { label: "Data", value: "circle", options: TITLES }, level: LEVEL, seed: SEED };

/** The training, which is paused while other parts are shown. */
const training = {
  worker: undefined as Worker | undefined,
  terms: "",
  number: 0, // reports of the one before may still be on their way
  report: undefined as Report | undefined,
  history: [] as { step: number; errors: Errors }[],
};

export const open: Open = (query, signal) => {
  const settings = new Settings("learning", SETTINGS, query);
  const { values } = settings;
  training.worker ??= new Worker(new URL("../learning/worker.ts", import.meta.url), { type: "module" });
  const { worker } = training;
  const order = (what: Order): void => worker.postMessage(what);
  signal.addEventListener("abort", () => order({ kind: "pause" }));

  const redraw = frames(draw, signal);
  const exact = new Panel("Exact score", "The exact score as arrows", look, signal);
  const learned = new Panel("Learned score", "The learned score as arrows", redraw, signal);
  const error = new Panel("Error", "The relative error as colour, with noisy data", redraw, signal);
  const drawn = new Panel("Samples", "Points sampled with the learned score", redraw, signal);
  const byStep = new Chart("Error in % at this σ, by training step", STYLES, redraw, signal);
  const bySigma = new Chart("Error in % now, by noise level σ", STYLES, redraw, signal);
  const numbers = readings({
    step: "Training step",
    data: "Error on the data",
    square: "Error over the square",
  });

  /** Starts a training, or continues the paused one if it has the same data and seed. */
  function begin(): void {
    const { data, seed } = values;
    if (training.terms !== `${data} ${seed}`) {
      training.history = [];
      training.terms = `${data} ${seed}`;
      training.report = undefined;
      order({ kind: "begin", training: ++training.number, terms: { data, seed } });
    }
    look();
    if (!calm() && (training.report?.step ?? 0) < STEPS) run();
  }

  /** The remaining steps, or the same number again. */
  function run(): void {
    const done = training.report?.step ?? 0;
    order({ kind: "run", steps: STEPS - (done % STEPS) });
  }

  /** The level, and the number of arrows. */
  function look(): void {
    order({ kind: "view", level: values.level - 1, count: arrowCount(exact) });
  }

  worker.onmessage = ({ data }: MessageEvent<Report>): void => {
    const { history, report, number } = training;
    if (data.training !== number) return;
    if (report?.running && !data.running && data.step % STEPS === 0) tell(`Training paused after step ${data.step}.`);
    training.report = data;
    if (data.step > (history.at(-1)?.step ?? -1)) history.push({ step: data.step, errors: data.errors });
    redraw();
  };
  worker.onerror = (event) => announce(`Training failed: ${event.message}`);

  function draw(): boolean {
    const { report, history } = training;
    if (!report) return false;
    const { sigma, count, errors, step, running } = report;
    const { exact: right, learned: guess, error: off, sample } = report;
    const note = `at σ = ${short(sigma)}`;
    exact.paint(note, VIEW, () => arrows(exact, right, count));
    learned.paint(note, VIEW, () => arrows(learned, guess, count, 0.75, right));
    error.paint(note, VIEW, () => {
      // From 1 % to 100 %, on a logarithmic scale.
      const opacity = (value: number): number => Math.min(1, Math.max(0, 1 + Math.log10(value) / 2));
      heat(error, off, error.theme.accent, opacity);
      const random = new Mulberry(2);
      const draws = DISTRIBUTIONS[values.data].make().sample(DRAWS, random);
      const noised = draws.map((value) => value + sigma * random.normal());
      error.dots(noised, css(error.theme.ink, 0.7), 1.6);
    });
    drawn.paint("by this score", VIEW, () => drawn.dots(sample, css(drawn.theme.ink), 3));
    const level = values.level - 1;
    const last = Math.max(STEPS, step);
    const names = ["square", "data"] as const;
    const steps = history.map(({ step }) => step);
    const byStepLines = names.map((name) => ({ x: steps, y: history.map(({ errors }) => 100 * errors[name][level]) }));
    byStep.draw({ range: [0, last], ticks: [0, last] }, PERCENT, byStepLines);
    const bySigmaLines = names.map((name) => ({ x: SIGMAS, y: errors[name].map((value) => 100 * value) }));
    bySigma.draw({ range: [0.1, 20], ticks: [0.1, 1, 10], log: true }, PERCENT, bySigmaLines);
    pause.textContent = running ? "Pause" : "Run";
    numbers.say("step", String(step));
    for (const name of names) numbers.say(name, `${short(100 * errors[name][level])} %`);
    return false;
  }

  const pause = primary("Pause", () => (training.report?.running ? order({ kind: "pause" }) : run()));
  const again = button("Start over", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    begin();
  });
  // The slider goes from small to large, but levels are numbered from the largest.
  const fromSmallest = { ...LEVEL, label: "Noise level σ", say: (place: number) => short(SIGMAS[LEVELS - place]) };
  const levels = slider(fromSmallest, LEVELS + 1 - values.level, (place) => {
    settings.set({ level: LEVELS + 1 - place });
    look();
  });
  settings.write();
  begin();
  return layout(
    "learning",
    [el("div", { class: "side" }, exact.figure, learned.figure, error.figure, drawn.figure)],
    [row(pause, again), settings.control("data", begin), levels.element, numbers.element],
    [el("div", { class: "pair" }, byStep.figure, bySigma.figure)],
  );
};
