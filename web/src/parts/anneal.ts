// Part 2: the paper's figure 3, live.
import { Mixture, twoGaussians } from "../maths/distributions.ts";
import { type Schedule, annealed, constant, exactShare, ladder, langevin, shares } from "../maths/langevin.ts";
import { Mulberry, type Points, VIEW } from "../maths/plane.ts";
import { type Axis, Chart } from "../draw/chart.ts";
import { Panel, css, density, frames } from "../draw/stage.ts";
import { SEED, Settings } from "../settings.ts";
import { button, calm, el, primary, readings, row, short, tell } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const PARTICLES = 2000;
const BOTTOM = 0.1; // the smallest noise level, and Langevin's
const MARGIN = 2.5; // standard deviations around the modes that a picture shows

const SLIDERS = {
  weight: { label: "Share of the lower left mode", value: 0.2, min: 0.05, max: 0.95 },
  levels: { label: "Noise levels L", value: 20, min: 1, max: 40, whole: true },
  steps: { label: "Steps on each level T", value: 75, min: 1, max: 150, whole: true },
  top: { label: "Largest noise level σ₁", value: 20, min: 1, max: 50, log: true },
  // From 4 on the steps diverge.
  eps: { label: "Step size ε, in units of σ_L²", value: 0.5, min: 0.01, max: 3.9, log: true },
};
const PACE = { value: 12, min: 3, max: 60 }; // seconds that a run takes: by the address alone
const NAMES = Object.keys(SLIDERS) as (keyof typeof SLIDERS)[];
const STYLES = [
  { title: "exact at the σ of “annealed”", dashed: true },
  { title: "Langevin" },
  { title: "annealed", bold: true },
];

/** ε of annealed Langevin dynamics is over σ_L². */
type Terms = Record<keyof typeof SLIDERS | "seed", number>;
type Race = ReturnType<typeof raceOf>;

/** Langevin dynamics beside annealed Langevin dynamics: the same start, and as many steps. */
function raceOf(terms: Terms) {
  const { weight, top, levels, steps, eps, seed } = terms;
  const truth = twoGaussians(weight);
  const sigmas = ladder(top, BOTTOM, levels);
  const total = levels * steps;
  const random = new Mulberry(seed);
  const x: Points = Float64Array.from({ length: 2 * PARTICLES }, () => (2 * random.uniform() - 1) * VIEW);
  /** Particles, their way, and the lower mode's share after steps. */
  const dynamics = (schedule: Schedule) => {
    // Random numbers of its own, so that neither depends on what the other does.
    const own = new Mulberry(random.uniform() * 2 ** 32);
    return { x, states: langevin(truth.score, schedule, x, own), shares: [] as number[] };
  };
  const alpha = eps * BOTTOM ** 2; // of both on the smallest level
  const plain = dynamics(constant(BOTTOM, alpha, total));
  const slow = dynamics(annealed(sigmas, alpha, steps));
  const noted: number[] = []; // steps after which shares are known
  const exact: number[] = []; // the right share at the noise level of each
  let step = 0; // of which the last one, beyond the total, denoises

  const over = (): boolean => step > total;
  /** The level on which the particles are, from 1. */
  const level = (): number => Math.max(1, Math.min(levels, Math.ceil(step / steps)));
  /** The noise in the particles of either. */
  const sigma = (name: "plain" | "annealed"): number => (over() ? 0 : name === "plain" ? BOTTOM : sigmas[level() - 1]);
  const rightShare = (name: "plain" | "annealed"): number => exactShare(truth.means, truth.std, weight, sigma(name));

  function advance(count: number): void {
    if (over()) return;
    const taken = Math.min(count, total + 1 - step);
    step += taken;
    noted.push(step);
    exact.push(rightShare("annealed"));
    for (const each of [plain, slow]) {
      for (let i = 0; i < taken; i++) each.x = each.states.next().value;
      each.shares.push(shares(each.x, truth.means)[0]);
    }
  }

  /** To the end of the level; from the end of the last one, on to the denoised samples. */
  const advanceLevel = (): void => advance(steps - (step % steps));
  advance(0);
  return { truth, total, plain, annealed: slow, noted, exact, over, level, sigma, rightShare, advance, advanceLevel };
}

export const open: Open = (query, signal) => {
  const settings = new Settings("anneal", { ...SLIDERS, seed: SEED, seconds: PACE }, query);
  const { values } = settings;
  let race = raceOf(values);
  let playing = !calm();
  let owed = 0; // steps that frames have not taken yet, and fractions of them
  let last = 0;

  const redraw = frames(draw, signal);
  const panels = [panelOf("plain", "Langevin", redraw, signal), panelOf("annealed", "Annealed", redraw, signal)];
  const chart = new Chart("Share in the lower left mode, by step", STYLES, redraw, signal);
  const numbers = readings({ step: "Step", level: "Noise level of “annealed”" });

  function begin(): void {
    race = raceOf(values);
    owed = 0;
    play(!calm());
  }

  function play(on: boolean): void {
    playing = on && !race.over();
    last = 0;
    pause.textContent = playing ? "Pause" : "Run";
    redraw();
  }

  /** Takes steps, and says so at the end. */
  function advance(by: () => void): void {
    if (race.over()) return;
    by();
    if (!race.over()) return;
    play(false);
    const [plain, slow] = [race.plain, race.annealed].map((each) => each.shares.at(-1)?.toFixed(2));
    tell(
      `The run has ended. Share in the lower left mode: Langevin ${plain}, annealed ${slow}, exact ${values.weight}.`,
    );
  }

  function draw(): boolean {
    const now = performance.now();
    if (playing) {
      owed += ((last ? Math.min(now - last, 100) : 17) / 1000) * ((race.total + 1) / values.seconds);
      const whole = Math.floor(owed);
      owed -= whole;
      if (whole > 0) advance(() => race.advance(whole));
    }
    last = playing ? now : 0;
    for (const each of panels) each.draw(race);
    const steps: Axis = { range: [0, race.total + 1], ticks: [0, race.total] };
    const lines = [race.exact, race.plain.shares, race.annealed.shares].map((y) => ({ x: race.noted, y }));
    chart.draw(steps, { range: [0, 1], ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] }, lines);
    const done = Math.min(race.noted.at(-1) ?? 0, race.total);
    numbers.say("step", `${done} of ${race.total}${race.over() ? ", denoised" : ""}`);
    numbers.say("level", `${race.level()} of ${values.levels}, σ = ${short(race.sigma("annealed"))}`);
    return playing;
  }

  const pause = primary("Pause", () => {
    if (race.over()) begin();
    else play(!playing);
  });
  const level = button("Next level", () => {
    play(false);
    advance(() => race.advanceLevel());
    redraw();
  });
  const again = button("Start over", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    begin();
  });
  const buttons = row(pause, level, again);
  const sliders = NAMES.map((name) => settings.control(name, begin));
  settings.write();
  play(playing);
  const pictures = el("div", { class: "side" }, ...panels.map(({ element }) => element));
  return layout(
    "anneal",
    [pictures],
    [buttons, numbers.element, ...sliders],
    [el("div", { class: "charts" }, chart.figure)],
  );
};

/** Particles of one of the two dynamics, above the density whose score moves them. */
function panelOf(name: "plain" | "annealed", title: string, changed: () => void, signal: AbortSignal) {
  const share = el("span", { class: "weight", "data-reading": `weight-${name}` });
  const right = el("small", { "data-reading": `exact-${name}` });
  const panel = new Panel(title, `${PARTICLES} particles, ${title}`, changed, signal, el("div", {}, share, " ", right));

  function draw(race: Race): void {
    const { ink, accent } = panel.theme;
    const sigma = race.sigma(name);
    const { means, std, weights } = race.truth;
    // The picture becomes as wide as the noise makes the data: everything is drawn that many times smaller.
    const zoom = Math.max(1, (Math.abs(means[0]) + MARGIN * Math.hypot(std, sigma)) / VIEW);
    const smaller = (value: number): number => value / zoom;
    const shown = new Mixture(means.map(smaller), std / zoom, Array.from(weights));
    const x = race[name].x.map(smaller);
    const below = belowMiddle(x);
    panel.paint(
      race.over() ? "denoised" : `at σ = ${short(sigma)}`,
      () => {
        density(panel, shown.density(sigma / zoom), ink, 0.22);
        panel.dots(x, css(ink, 0.7), 2, (i) => !below(i));
        panel.dots(x, css(accent), 2, below);
      },
      zoom,
    );
    const value = race[name].shares.at(-1) ?? 0;
    const error = Math.sqrt((value * (1 - value)) / PARTICLES);
    share.textContent = `${value.toFixed(2)} ± ${error.toFixed(2)}`;
    right.textContent = `exact here: ${race.rightShare(name).toFixed(2)}`;
  }

  return { element: panel.figure, draw };
}

/** Which points are nearer to the lower mode: those below the diagonal. */
const belowMiddle =
  (x: Points) =>
  (i: number): boolean =>
    x[i] + x[i + 1] < 0;
