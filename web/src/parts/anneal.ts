// Part 2: the paper's figure 3, live.
import { twoGaussians } from "../maths/distributions.ts";
import { type Schedule, annealed, constant, ladder, langevin, shares } from "../maths/langevin.ts";
import { Mulberry, type Points, VIEW } from "../maths/plane.ts";
import { type Axis, Chart } from "../draw/chart.ts";
import { Panel, css, density, frames } from "../draw/stage.ts";
import { SEED, Settings } from "../settings.ts";
import { button, calm, el, primary, readings, row, short } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const PARTICLES = 1000;
const BOTTOM = 0.1; // the smallest noise level, and Langevin's
const ALPHA = 0.1; // Langevin's step size

const SLIDERS = {
  weight: { label: "Weight of the lower mode", value: 0.2, min: 0.05, max: 0.95 },
  top: { label: "Largest noise level σ₁", value: 20, min: 1, max: 50, log: true },
  levels: { label: "Levels L", value: 20, min: 1, max: 40, whole: true },
  steps: { label: "Steps on each level T", value: 75, min: 1, max: 150, whole: true },
  // From 4 on the steps diverge.
  eps: { label: "Annealed: step size ε, in σ_L²", value: 0.5, min: 0.01, max: 3.9, log: true },
};
const PACE = { value: 12, min: 3, max: 60 }; // seconds that the whole takes: by the address alone
const NAMES = Object.keys(SLIDERS) as (keyof typeof SLIDERS)[];

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
  /** Particles, their way, and the lower mode's weight after steps. */
  const dynamics = (schedule: Schedule) => {
    // Random numbers of its own, so that neither depends on what the other does.
    const own = new Mulberry(random.uniform() * 2 ** 32);
    return { x, states: langevin(truth.score, schedule, x, own), weights: [] as number[] };
  };
  const plain = dynamics(constant(BOTTOM, ALPHA, total));
  const slow = dynamics(annealed(sigmas, eps * BOTTOM ** 2, steps));
  const noted: number[] = []; // steps after which weights are known
  let step = 0; // of which the last one, beyond the total, denoises

  const over = (): boolean => step > total;
  /** The level on which the next step is, from 1; the last one when there is none. */
  const level = (): number => Math.min(levels, Math.floor(step / steps) + 1);

  function advance(count: number): void {
    if (over()) return;
    const taken = Math.min(count, total + 1 - step);
    step += taken;
    noted.push(step);
    for (const each of [plain, slow]) {
      for (let i = 0; i < taken; i++) each.x = each.states.next().value;
      each.weights.push(shares(each.x, truth.means)[0]);
    }
  }

  /** To the end of the level; from the end of the last one, on to the denoised samples. */
  const advanceLevel = (): void => advance(steps - (step % steps));
  /** What the next step's size α is, annealed. */
  const size = (): number => eps * sigmas[level() - 1] ** 2;
  advance(0);
  return { truth, sigmas, total, plain, annealed: slow, noted, over, level, size, advance, advanceLevel };
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
  const chart = new Chart("The lower mode’s weight by step: Langevin, annealed, and the truth", redraw, signal);
  const numbers = readings({ step: "Step", level: "Level", alpha: "Annealed: step size α = ε·σ²/σ_L²" });

  function begin(): void {
    race = raceOf(values);
    owed = 0;
    redraw();
  }

  function play(on: boolean): void {
    playing = on && !race.over();
    last = 0;
    pause.textContent = playing ? "Pause" : "Play";
    redraw();
  }

  function draw(): boolean {
    const now = performance.now();
    if (playing) {
      owed += ((last ? Math.min(now - last, 100) : 17) / 1000) * ((race.total + 1) / values.seconds);
      if (owed >= 1) race.advance(Math.floor(owed));
      owed %= 1;
      if (race.over()) play(false);
    }
    last = playing ? now : 0;
    for (const each of panels) each.draw(race, values.weight);
    const steps: Axis = { range: [0, race.total + 1], ticks: [0, race.total] };
    chart.draw("Weight by step", steps, { range: [0, 1], ticks: [0, 0.5, 1] }, [
      { x: steps.range, y: [values.weight, values.weight], dashed: true, title: "truth" },
      { x: race.noted, y: race.plain.weights, title: "Langevin" },
      { x: race.noted, y: race.annealed.weights, bold: true, title: "annealed" },
    ]);
    numbers.say(
      "step",
      `${Math.min(race.noted.at(-1) ?? 0, race.total)} of ${race.total}${race.over() ? ", denoised" : ""}`,
    );
    numbers.say("level", `${race.level()} of ${values.levels}, σ = ${short(race.sigmas[race.level() - 1])}`);
    numbers.say("alpha", short(race.size()));
    return playing;
  }

  /** A button that pauses, and does something then. */
  const by = (label: string, act: () => void): HTMLElement =>
    button(label, () => {
      play(false);
      act();
    });
  const pause = primary("Pause", () => {
    if (race.over()) begin();
    play(!playing);
  });
  const buttons = row(
    pause,
    by("One step", () => race.advance(1)),
    by("One level", () => race.advanceLevel()),
    by("Reset", begin),
    by("Another start", () => {
      settings.set({ seed: (values.seed + 1) % 2 ** 32 });
      begin();
    }),
  );
  const sliders = NAMES.map((name) => settings.control(name, begin));
  settings.write();
  play(playing);
  const pictures = [el("div", { class: "side" }, ...panels.map(({ element }) => element)), chart.element];
  return layout("anneal", pictures, [buttons, numbers.element, ...sliders]);
};

/** Particles of one of the two dynamics, above the density whose score moves them. */
function panelOf(name: "plain" | "annealed", title: string, changed: () => void, signal: AbortSignal) {
  const share = el("span", { class: "weight number", "data-reading": `weight-${name}` });
  const truth = el("small");
  const shares = el("div", {}, share, " ", truth);
  const panel = new Panel(title, `${PARTICLES} particles, ${title}`, changed, signal, shares);

  function draw(race: Race, weight: number): void {
    const { ink, accent } = panel.theme;
    const { x, weights } = race[name];
    const sigma = race.sigmas[name === "plain" ? race.sigmas.length - 1 : race.level() - 1];
    const below = belowMiddle(x);
    panel.paint(race.over() ? "denoised" : `at σ = ${short(sigma)}`, () => {
      density(panel, race.truth.density(sigma), ink, 0.22);
      panel.dots(x, css(ink, 0.7), 2, (i) => !below(i));
      panel.dots(x, css(accent), 2, below);
    });
    share.textContent = weights[weights.length - 1].toFixed(3);
    truth.textContent = `truth ${weight.toFixed(3)}`;
  }

  return { element: panel.figure, draw };
}

/** Which points are nearer to the lower mode: those below the diagonal. */
const belowMiddle =
  (x: Points) =>
  (i: number): boolean =>
    x[i] + x[i + 1] < 0;
