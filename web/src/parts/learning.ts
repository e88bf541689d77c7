// Part 3: a network learns a score as one watches; learned, exact, and the error between them.
import { Chart } from "../draw/chart.ts";
import { arrowCount, arrows, frame, heat } from "../draw/field.ts";
import { Stage } from "../draw/stage.ts";
import { css } from "../draw/theme.ts";
import type { Order, Report } from "../learning/messages.ts";
import { LEVELS, SIGMAS } from "../learning/training.ts";
import { Loop } from "../loop.ts";
import { DISTRIBUTIONS } from "../maths/distributions.ts";
import { Mulberry } from "../maths/random.ts";
import { read, write } from "../state.ts";
import { announce, button, calm, choice, el, readings, short, slider } from "../ui.ts";
import { type Open, type Text, layout } from "./part.ts";

const STEPS = 3000; // after which it pauses
const DRAWS = 500;
const OBJECTIVES = { denoising: "Denoising, 20 levels", sliced: "Sliced, without noise" };
const DATA = Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { title }]) => [name, title]));
const DEFAULTS = { data: "circle", objective: "denoising", level: LEVELS, seed: 0 };
const LEVEL = { min: 1, max: LEVELS, whole: true };
const SEED = { min: 0, max: 2 ** 32 - 1, whole: true };
const ALLOWED = { data: Object.keys(DATA), objective: Object.keys(OBJECTIVES), level: LEVEL, seed: SEED };

export const open: Open = (query) => {
  const state = read(query, DEFAULTS, ALLOWED);
  const worker = new Worker(new URL("../learning/worker.ts", import.meta.url), { type: "module" });
  const order = (what: Order): void => worker.postMessage(what);
  let report: Report | undefined;
  let history: { step: number; data: number[]; square: number[] }[] = [];
  let training = 0; // which one it is: reports of the one before may still be on their way

  const loop = new Loop(draw);
  const redraw = (): void => loop.request();
  const panels = [
    new Panel("Exact", "The exact score as arrows", look),
    new Panel("Learned", "The learned score as arrows", redraw),
    new Panel("Error", "The relative error as colour, with noised data", redraw),
  ] as const;
  const byStep = new Chart("Relative error at this noise level, by training step", redraw);
  const bySigma = new Chart("Relative error by noise level, now", redraw);
  const numbers = readings({ step: "Training step", loss: "Loss of the last steps", data: "Error where the data lies", square: "Error over the square" });

  function begin(): void {
    history = [];
    bySigma.canvas.hidden = levels.element.hidden = state.objective === "sliced";
    look();
    order({ kind: "begin", training: ++training, terms: { data: state.data, objective: state.objective, seed: state.seed } });
    if (!calm()) order({ kind: "run", steps: STEPS });
    write("learning", state, DEFAULTS);
  }

  /** At which level, and as how many arrows. */
  function look(): void {
    order({ kind: "view", level: state.level - 1, count: arrowCount(panels[0].stage) });
  }

  worker.onmessage = ({ data }: MessageEvent<Report>): void => {
    if (data.training !== training) return;
    report = data;
    const known = history.at(-1)?.step ?? -1;
    if (data.step > known) history.push({ step: data.step, ...data.errors });
    pause.textContent = data.running ? "Pause" : data.step > 0 ? "Train on" : "Train";
    redraw();
  };
  worker.onerror = (event) => announce(`Training has failed: ${event.message}`);

  function draw(): boolean {
    if (!report) return false;
    const { sigma, exact, learned, count } = report;
    panels[0].draw(sigma, (stage) => arrows(stage, exact, count));
    panels[1].draw(sigma, (stage) => arrows(stage, learned, count));
    panels[2].draw(sigma, (stage) => drawError(stage, report as Report));
    const level = Math.min(state.level - 1, report.errors.data.length - 1);
    const steps = history.map(({ step }) => step);
    const axes = { y: [1e-4, 10] as [number, number], logY: true, ticksY: [0.001, 0.01, 0.1, 1, 10] };
    const last = Math.max(STEPS, report.step);
    byStep.draw({ ...axes, x: [0, last], ticksX: [0, last], title: "Error by step" }, [
      { x: steps, y: history.map(({ square }) => square[level]), title: "over the square" },
      { x: steps, y: history.map(({ data }) => data[level]), bold: true, title: "where data lies" },
    ]);
    bySigma.draw({ ...axes, x: [0.1, 20], logX: true, ticksX: [0.1, 1, 10], title: "Error by σ" }, [
      { x: SIGMAS, y: report.errors.square, title: "over the square" },
      { x: SIGMAS, y: report.errors.data, bold: true, title: "where data lies" },
    ]);
    const percent = (share: number): string => `${short(100 * share)} %`;
    numbers.say("step", String(report.step));
    numbers.say("loss", Number.isNaN(report.loss) ? "none yet" : short(report.loss));
    numbers.say("data", percent(report.errors.data[level]));
    numbers.say("square", percent(report.errors.square[level]));
    return false;
  }

  function drawError(stage: Stage, { error, cells, sigma }: Report): void {
    // From 1 % to 100 %, by its logarithm.
    heat(stage, { cells, values: error }, stage.theme.accent, (value) => Math.min(1, Math.max(0, 1 + Math.log10(value) / 2)));
    const random = new Mulberry(2);
    const draws = DISTRIBUTIONS[state.data].make().sample(DRAWS, random);
    stage.dots(draws.map((value) => value + sigma * random.normal()), css(stage.theme.ink, 0.7), 1.6);
  }

  const pause = button("Pause", () => order(report?.running ? { kind: "pause" } : { kind: "run", steps: STEPS }), "primary");
  const again = button("Begin anew", () => {
    state.seed = (state.seed + 1) % 2 ** 32;
    begin();
  });
  // The slider goes from small to large, while levels count from the largest.
  const say = (place: number): string => short(SIGMAS[LEVELS - place]);
  const levels = slider("Noise level σ", { ...LEVEL, say }, LEVELS + 1 - state.level, (place) => {
    state.level = LEVELS + 1 - place;
    look();
    write("learning", state, DEFAULTS);
  });
  const controls = [
    choice("Data", DATA, state.data, (name) => ((state.data = name), begin())).element,
    choice("Objective", OBJECTIVES, state.objective, (name) => ((state.objective = name), begin())).element,
    el("div", { class: "row" }, pause, again),
    levels.element,
    numbers.element,
  ];
  begin();
  const side = el("div", { class: "side" }, ...panels.map((panel) => panel.element));
  return {
    element: layout(TEXT, [side], controls, [el("div", { class: "charts" }, byStep.canvas, bySigma.canvas)]),
    stop: () => {
      worker.terminate();
      loop.stop();
      for (const each of [...panels, byStep, bySigma]) each.stop();
    },
  };
};

/** A field under its name. */
class Panel {
  readonly element: HTMLElement;
  readonly stage: Stage;
  readonly #level = el("small");

  constructor(title: string, label: string, changed: () => void) {
    this.stage = new Stage({ role: "img", "aria-label": label }, changed);
    this.element = el("figure", {}, el("figcaption", {}, title, " ", this.#level), this.stage.canvas);
  }

  draw(sigma: number, paint: (stage: Stage) => void): void {
    this.#level.textContent = sigma > 0 ? `σ = ${short(sigma)}` : "without noise";
    this.stage.clear();
    paint(this.stage);
    frame(this.stage);
  }

  stop(): void {
    this.stage.stop();
  }
}

const TEXT: Text = {
  title: "Learning",
  below: "beside",
  intro:
    "A multilayer perceptron of 29,250 weights learns the score of points that it sees, in this page, by hand-written derivatives. It is never told the score: denoising score matching asks it for the noise in noisy points, sliced score matching for the slope of its own field along random directions.",
  lookFor: [
    "At the smallest σ the error is small on the circle and large elsewhere: no training point was ever there, and nothing corrects the network. This is the paper’s section 3.2.1.",
    "Move σ up: noised points fill the square, and the error falls everywhere. One network learns all levels at once (section 4.2), and annealing starts where it is right everywhere.",
    "Errors are ‖ŝ − s‖²/‖s‖², the numbers averaged above and below. Colour in the right picture: none at 1 %, full from 100 % on; a thin line stays where the exact score itself is zero.",
    "Sliced score matching without noise needs no noise at all, but learns the score only where data lies: two Gaussians without noise are the paper’s figure 2.",
  ],
};
