// Part 2: the paper's figure 3, live.
import { twoGaussians } from "../maths/distributions.ts";
import {
  type Schedule,
  annealed,
  constant,
  exactShare,
  isLower,
  ladder,
  langevin,
  lowerShare,
} from "../maths/langevin.ts";
import { Mulberry, type Points, VIEW, viewOf } from "../maths/plane.ts";
import { type Axis, Chart } from "../draw/chart.ts";
import { Panel, arrowCount, arrows, css, density, frames } from "../draw/stage.ts";
import { SEED, Settings } from "../settings.ts";
import { button, calm, el, primary, readings, row, short, slider, tell } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const PARTICLES = 2000;
const BOTTOM = 0.1; // the smallest noise level, and Langevin's
const STATES = 300; // of a run that are kept, or a few more
const PATHS = 4; // particles whose way is shown
const TAILS = { plain: STATES, annealed: 12 }; // states of it; large steps would soon fill the picture

const SLIDERS = {
  weight: { label: "Weight of the lower left mode", value: 0.2, min: 0.05, max: 0.95 },
  levels: { label: "Noise levels L", value: 20, min: 1, max: 40, whole: true },
  steps: { label: "Steps per level T", value: 75, min: 1, max: 150, whole: true },
  top: { label: "Largest noise level σ₁", value: 20, min: 1, max: 50, log: true },
  // From 4 on the steps diverge.
  eps: { label: "Step size ε, in units of σ_L² ?eps", value: 0.5, min: 0.01, max: 3.9, log: true },
};
const PACE = { value: 12, min: 3, max: 60 }; // seconds that a run takes: by the address alone
const NAMES = Object.keys(SLIDERS) as (keyof typeof SLIDERS)[];
const STYLES = [
  { title: "exact at the σ of “annealed”", dashed: true },
  { title: "Langevin" },
  { title: "annealed", bold: true },
];

/** ε of annealed Langevin dynamics is in units of σ_L². */
type Terms = Record<keyof typeof SLIDERS | "seed", number>;
type Name = "plain" | "annealed";
type Race = ReturnType<typeof raceOf>;
/** Particles with noise of σ, the fraction in the lower mode, and the exact fraction. */
type Side = { sigma: number; x: Points; share: number; exact: number };
type State = Record<Name, Side> & { step: number; level: number };

/** Langevin dynamics and annealed Langevin dynamics from the same start, with the same number of steps. */
function raceOf({ weight, top, levels, steps, eps, seed }: Terms) {
  const truth = twoGaussians(weight);
  const sigmas = ladder(top, BOTTOM, levels);
  const total = levels * steps;
  const perLevel = Math.min(steps, Math.ceil(STATES / levels)); // states that are kept
  const last = levels * perLevel + 1; // is denoised, a step beyond the total
  const random = new Mulberry(seed);
  const start: Points = Float64Array.from({ length: 2 * PARTICLES }, () => (2 * random.uniform() - 1) * VIEW);
  // Separate random numbers, so that neither depends on the other.
  const dynamics = (schedule: Schedule) =>
    langevin(truth.score, schedule, start, new Mulberry(random.uniform() * 2 ** 32));
  const alpha = eps * BOTTOM ** 2; // of both on the smallest level
  const ways = {
    plain: dynamics(constant(BOTTOM, alpha, total)),
    annealed: dynamics(annealed(sigmas, alpha, steps)),
  };
  const states: State[] = [];

  function note(step: number, plain: Points, slow: Points): void {
    const level = Math.max(1, Math.min(levels, Math.ceil(step / steps)));
    const side = (x: Points, sigma: number): Side => {
      const noise = step > total ? 0 : sigma;
      const exact = exactShare(truth.means, truth.std, weight, noise);
      return { sigma: noise, x, share: lowerShare(x), exact };
    };
    states.push({ step, level, plain: side(plain, BOTTOM), annealed: side(slow, sigmas[level - 1]) });
  }

  /** Makes sure that all states up to an index exist. */
  function until(place: number): State[] {
    while (states.length <= place) {
      const step = states.length === last ? total + 1 : Math.round((states.length * steps) / perLevel);
      const { step: before, plain, annealed } = states[states.length - 1];
      let [x, slow] = [plain.x, annealed.x];
      for (let i = before; i < step; i++) [x, slow] = [ways.plain.next().value, ways.annealed.next().value];
      note(step, x, slow);
    }
    return states.slice(0, place + 1);
  }

  note(0, start, start);
  return { truth, total, perLevel, last, until };
}

export const open: Open = (query, signal) => {
  const settings = new Settings("anneal", { ...SLIDERS, seed: SEED, seconds: PACE }, query);
  const { values } = settings;
  let race = raceOf(values);
  let place = 0; // among the states, between two of them
  let playing = false;
  let drawn = 0; // when, in milliseconds

  const redraw = frames(draw, signal);
  const panels = [panelOf("plain", "Langevin", redraw, signal), panelOf("annealed", "Annealed", redraw, signal)];
  const chart = new Chart("Fraction in the lower left mode, by step", STYLES, redraw, signal);
  const numbers = readings({ step: "Step", level: "Noise level of “annealed”" });

  function begin(): void {
    race = raceOf(values);
    place = 0;
    play(!calm());
  }

  function play(on: boolean): void {
    playing = on;
    drawn = performance.now();
    pause.textContent = playing ? "Pause" : "Run";
    redraw();
  }

  /** Goes to an index, and announces the end. */
  function go(to: number): void {
    const before = place;
    place = Math.min(race.last, to);
    if (place < race.last || before === place) return;
    play(false);
    const [{ plain, annealed }] = race.until(place).slice(-1);
    const found = `Langevin ${plain.share.toFixed(2)}, annealed ${annealed.share.toFixed(2)}, exact ${values.weight}`;
    tell(`Finished. Fraction in the lower left mode: ${found}.`);
  }

  function draw(): boolean {
    const now = performance.now();
    if (playing) go(place + (Math.min(now - drawn, 100) / 1000) * (race.last / values.seconds));
    drawn = now;
    const states = race.until(Math.floor(place));
    const { step, level, annealed } = states[states.length - 1];
    for (const each of panels) each.draw(race, states);
    const x = states.map((state) => state.step);
    const lines = [
      states.map((state) => state.annealed.exact),
      states.map((state) => state.plain.share),
      states.map((state) => state.annealed.share),
    ].map((y) => ({ x, y }));
    const steps: Axis = { range: [0, race.total + 1], ticks: [0, race.total] };
    chart.draw(steps, { range: [0, 1], ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] }, lines);
    numbers.say("step", `${Math.min(step, race.total)} of ${race.total}${step > race.total ? ", denoised" : ""}`);
    numbers.say("level", `${level} of ${values.levels}, σ = ${short(annealed.sigma)}`);
    back.set(place / race.last);
    return playing;
  }

  const pause = primary("Pause", () => {
    if (place === race.last) place = 0;
    play(!playing);
  });
  const level = button("Next level", () => {
    play(false);
    go((Math.floor(place / race.perLevel) + 1) * race.perLevel);
  });
  const percent = (share: number): string => `${Math.round(100 * share)} % of the way`;
  const back = slider({ label: "Rewind", min: 0, max: 1, say: percent }, 0, (share) => {
    play(false);
    go(Math.round(share * race.last));
  });
  const again = button("Start over", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    begin();
  });
  const buttons = row(pause, level, again);
  const sliders = NAMES.map((name) => settings.control(name, begin));
  settings.write();
  play(!calm());
  const pictures = el("div", { class: "side" }, ...panels.map(({ element }) => element));
  return layout(
    "anneal",
    [pictures],
    [buttons, back.element, numbers.element, ...sliders],
    [el("div", { class: "pair" }, chart.figure)],
  );
};

/** The particles of one of the two methods, on top of the density whose score moves them. */
function panelOf(name: Name, title: string, changed: () => void, signal: AbortSignal) {
  const large = el("span", { class: "weight", "data-reading": `weight-${name}` });
  const right = el("small", { "data-reading": `exact-${name}` });
  const panel = new Panel(title, `${PARTICLES} particles, ${title}`, changed, signal, el("div", {}, large, " ", right));

  function draw({ truth }: Race, states: State[]): void {
    const { ink, accent } = panel.theme;
    const { sigma, x, share, exact } = states[states.length - 1][name];
    const view = viewOf(sigma);
    const below = (i: number): boolean => isLower(x, i);
    panel.paint(sigma > 0 ? `at σ = ${short(sigma)}` : "denoised", view, () => {
      density(panel, truth.density(sigma, view), ink, 0.22);
      const count = arrowCount(panel);
      arrows(panel, truth.field(count, sigma, view), count, 0.35);
      panel.dots(x, css(ink, 0.7), 2, (i) => !below(i));
      panel.dots(x, css(accent), 2, below);
      for (let i = 0; i < 2 * PATHS; i += 2) {
        const path = states.slice(-TAILS[name]).flatMap((state) => Array.from(state[name].x.subarray(i, i + 2)));
        const colour = below(i) ? accent : ink;
        panel.line(path, css(colour, 0.5), 1.2);
        panel.circle(x.subarray(i, i + 2), 3.5, css(colour), css(panel.theme.paper));
      }
    });
    const error = Math.sqrt((share * (1 - share)) / PARTICLES);
    large.textContent = `${share.toFixed(2)} ± ${error.toFixed(2)}`;
    right.textContent = `exact here: ${exact.toFixed(2)}`;
  }

  return { element: panel.figure, draw };
}
