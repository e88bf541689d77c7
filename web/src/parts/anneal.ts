// Part 2: the paper's figure 3, live.
import { type Axes, Chart } from "../draw/chart.ts";
import { frame, heat } from "../draw/field.ts";
import { Stage } from "../draw/stage.ts";
import { css } from "../draw/theme.ts";
import { Loop } from "../loop.ts";
import type { Chain } from "../maths/langevin.ts";
import type { Points } from "../maths/plane.ts";
import { read, write } from "../state.ts";
import { button, calm, choice, el, readings, short, slider } from "../ui.ts";
import { type Open, type Text, layout } from "./part.ts";
import { PARTICLES, Race } from "./race.ts";

const DEFAULTS = { weight: 0.2, top: 20, bottom: 0.1, levels: 20, steps: 75, eps: 0.5, alpha: 0.1, seed: 0, seconds: "12" };
const ALLOWED = {
  weight: { min: 0.05, max: 0.95 },
  top: { min: 1, max: 50, log: true },
  bottom: { min: 0.05, max: 1, log: true },
  levels: { min: 1, max: 40, whole: true },
  steps: { min: 1, max: 150, whole: true },
  eps: { min: 0.01, max: 3.9, log: true }, // from 4 on the steps diverge
  alpha: { min: 0.001, max: 3.9, log: true },
  seed: { min: 0, max: 2 ** 32 - 1, whole: true },
  seconds: ["40", "12", "3"],
};
const LABELS = {
  weight: "Weight of the lower mode",
  top: "Largest noise level σ₁",
  bottom: "Smallest noise level σ_L, and Langevin’s",
  levels: "Levels L",
  steps: "Steps on each level T",
  eps: "Annealed: step size ε, in σ_L²",
  alpha: "Langevin: step size α",
} as const;

export const open: Open = (query) => {
  const state = read(query, DEFAULTS, ALLOWED);
  let race = new Race(state);
  let playing = !calm();
  let owed = 0; // steps that frames have not taken yet, and fractions of them
  let last = 0;

  const loop = new Loop(draw);
  const redraw = (): void => loop.request();
  const panels = (["plain", "annealed"] as const).map((name) => new Panel(name, redraw));
  const chart = new Chart("The lower mode’s weight by step: Langevin, annealed, and the truth", redraw);
  const numbers = readings({ step: "Step", level: "Level", alpha: "Annealed: step size α = ε·σ²/σ_L²" });

  function begin(): void {
    race = new Race(state);
    owed = 0;
    write("anneal", state, DEFAULTS);
    redraw();
  }

  function play(on: boolean): void {
    playing = on && !race.over;
    last = 0;
    pause.textContent = playing ? "Pause" : "Play";
    redraw();
  }

  function draw(): boolean {
    const now = performance.now();
    if (playing) {
      owed += ((last ? Math.min(now - last, 100) : 17) / 1000) * ((race.total + 1) / Number(state.seconds));
      race.advance(Math.floor(owed));
      owed %= 1;
      if (race.over) play(false);
    }
    last = playing ? now : 0;
    panels[0].draw(race, race.plain, state.weight);
    panels[1].draw(race, race.annealed, state.weight);
    const { step, plain, annealed } = race.history;
    const axes: Axes = { x: [0, race.total + 1], y: [0, 1], ticksX: [0, race.total], ticksY: [0, 0.5, 1], title: "Weight by step" };
    chart.draw(axes, [
      { x: [0, race.total + 1], y: [state.weight, state.weight], dashed: true, title: "truth" },
      { x: step, y: plain, title: "Langevin" },
      { x: step, y: annealed, bold: true, title: "annealed" },
    ]);
    numbers.say("step", `${race.annealed.step} of ${race.total}${race.over ? ", denoised" : ""}`);
    numbers.say("level", `${race.level} of ${state.levels}, σ = ${short(race.sigmas[race.level - 1])}`);
    numbers.say("alpha", short(race.alpha));
    return playing;
  }

  const pause = button("Pause", () => {
    if (race.over) begin();
    play(!playing);
  }, "primary");
  const by = (advance: () => void) => () => {
    play(false);
    advance();
    redraw();
  };
  const buttons = el(
    "div",
    { class: "row" },
    pause,
    button("One step", by(() => race.advance(1))),
    button("One level", by(() => race.advanceLevel())),
    button("Reset", by(begin)),
    button("Another start", by(() => {
      state.seed = (state.seed + 1) % 2 ** 32;
      begin();
    })),
  );
  const sliders = (Object.keys(LABELS) as (keyof typeof LABELS)[]).map((name) => {
    return slider(LABELS[name], ALLOWED[name], state[name], (value) => {
      state[name] = value;
      begin();
    }).element;
  });
  const pace = choice("The whole takes", { 40: "40 seconds", 12: "12 seconds", 3: "3 seconds" }, state.seconds, (value) => {
    state.seconds = value;
    write("anneal", state, DEFAULTS);
  });
  play(playing);
  const pictures = [el("div", { class: "side" }, ...panels.map((panel) => panel.element)), chart.canvas];
  return {
    element: layout(TEXT, pictures, [buttons, numbers.element, ...sliders, pace.element]),
    stop: () => {
      loop.stop();
      for (const each of [...panels, chart]) each.stop();
    },
  };
};

/** Particles of one of the two dynamics, above the density whose score moves them. */
class Panel {
  readonly element: HTMLElement;
  readonly #name: "plain" | "annealed";
  readonly #stage: Stage;
  readonly #weight: HTMLElement;
  readonly #truth: HTMLElement;
  readonly #level: HTMLElement;

  constructor(name: "plain" | "annealed", changed: () => void) {
    const title = name === "plain" ? "Langevin" : "Annealed";
    this.#name = name;
    this.#stage = new Stage({ role: "img", "aria-label": `${PARTICLES} particles, ${title}` }, changed);
    this.#weight = el("span", { class: "weight number", "data-reading": `weight-${name}` });
    this.#truth = el("small");
    this.#level = el("small");
    const share = el("span", { class: "share" }, this.#weight, " ", this.#truth);
    this.element = el("figure", {}, el("figcaption", {}, title, " ", this.#level, share), this.#stage.canvas);
  }

  draw(race: Race, chain: Chain, truth: number): void {
    const { theme } = this.#stage;
    const sigma = race.sigmas[this.#name === "plain" ? race.sigmas.length - 1 : race.level - 1];
    this.#stage.clear();
    const grid = race.truth.density(sigma);
    const peak = grid.values.reduce((a, b) => Math.max(a, b), 0);
    heat(this.#stage, grid, theme.ink, (value) => 0.22 * Math.sqrt(value / peak));
    const below = belowMiddle(chain.x);
    this.#stage.dots(chain.x, css(theme.ink, 0.7), 2, (i) => !below(i));
    this.#stage.dots(chain.x, css(theme.accent), 2, below);
    frame(this.#stage);
    this.#level.textContent = chain.denoised ? "denoised" : `at σ = ${short(sigma)}`;
    const weights = race.history[this.#name];
    this.#weight.textContent = weights[weights.length - 1].toFixed(3);
    this.#truth.textContent = `truth ${truth.toFixed(3)}`;
  }

  stop(): void {
    this.#stage.stop();
  }
}

/** Which points are nearer to the lower mode: those below the diagonal. */
const belowMiddle = (x: Points) => (i: number): boolean => x[i] + x[i + 1] < 0;

const TEXT: Text = {
  title: "Why anneal",
  below: "pictures",
  intro:
    "Two modes of unequal weight, and particles that start anywhere in the square. Both methods use the exact score and take as many steps: Langevin dynamics at the smallest noise level only, annealed Langevin dynamics down the ladder of levels, algorithm 1 of the paper. The numbers are the shares of particles in the lower left mode, against the truth.",
  lookFor: [
    "Langevin’s weight is that of the start, about a half, and stays: no particle crosses the empty region between the modes, where the score points back. This is the paper’s figure 3b, and section 3.2.2.",
    "Annealed: at large σ there is one mode, and particles mix. As σ falls, the modes part when the noise still lets particles cross, and each keeps its share: figure 3c.",
    "One level alone (L = 1) is Langevin dynamics again. Few levels, or few steps on each, leave a wrong weight.",
    "A large ε makes every level wider than it should be, by 1/(1 − ε/(4σ_L²)) in the variance; from ε = 4σ_L² on, steps diverge.",
    "The last step is no Langevin step: it replaces each particle by the mean of what it can have been without its noise.",
  ],
};
