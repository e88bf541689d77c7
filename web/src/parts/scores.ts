// Part 1: the exact score of a noised distribution, as arrows; its density, draws of it, and a particle.
import { Stage, arrowCount, arrows, css, density, frame, frames, movable } from "../draw/stage.ts";
import { langevinStep } from "../maths/langevin.ts";
import { type Distribution, Mulberry, type Points, type Score, VIEW, within } from "../maths/plane.ts";
import { DISTRIBUTIONS, Mixture, TITLES } from "../maths/distributions.ts";
import { SHOWN, Settings } from "../settings.ts";
import { announce, button, calm, el, primary, readings, row, short, tell } from "../ui.ts";
import { MOST_POINTS, WRITTEN, decode, encode, example } from "./own.ts";
import { type Open, layout } from "./part.ts";

const LONGEST = 300; // steps of the path that are shown
const DRAWS = 2000;
const STEPS_AT_ONCE = 400; // where motion is not wanted
const APART = 0.15; // between points that are drawn in one stroke
const NEAR = 28; // CSS pixels, for a finger
const SETTINGS = {
  data: { label: "Data", value: "gaussian", options: { ...TITLES, own: "Your own points" } },
  sigma: { label: "Noise level σ", value: 1, min: 0.05, max: 20, log: true },
  x: { value: -6, min: -VIEW, max: VIEW },
  y: { value: 4, min: -VIEW, max: VIEW },
  points: { value: encode(example()), pattern: WRITTEN },
  arrows: { ...SHOWN, label: "Arrows" },
  density: { ...SHOWN, label: "Density" },
  draws: { ...SHOWN, label: "Noisy data" },
  noise: { ...SHOWN, label: "Noise in each step" },
  pen: { ...SHOWN, label: "The pointer adds points. Off: it moves the particle." },
};
const LABEL = "The score as arrows, the density as colour, noisy data as dots, and a particle";

/** A particle that can be put anywhere, and that walks by Langevin dynamics when it is let go. */
function particleOf(x: number, y: number) {
  const random = new Mulberry(1);
  const particle = { x: Float64Array.of(x, y), running: false, steps: 0, put, walk, draw };
  let path = [x, y];

  /** Put it there; the path begins anew. */
  function put(x: number, y: number): void {
    path = [within(x), within(y)];
    particle.x.set(path);
    particle.steps = 0;
  }

  /** Steps x + (α/2)·s(x, σ) + √α·z with α = σ²/2, or without z. */
  function walk(score: Score, sigma: number, count: number, noisy: boolean): void {
    for (let i = 0; i < count; i++) {
      const z = particle.x.map(() => (noisy ? random.normal() : 0));
      particle.x.set(langevinStep(particle.x, score(particle.x, sigma), stepSize(sigma), z));
      path.push(...particle.x);
    }
    particle.steps += count;
    path = path.slice(-2 * LONGEST);
  }

  /** The particle, its path, and a line to the ``mean`` of what it can have been without noise. */
  function draw(stage: Stage, mean: Points | undefined): void {
    const { theme } = stage;
    stage.line(path, css(theme.paper, 0.8), 3.5);
    stage.line(path, css(theme.ink), 1.5);
    if (mean) {
      stage.line([...particle.x, ...mean], css(theme.ink, 0.6), 1);
      stage.circle(mean, 5, css(theme.ink));
    }
    stage.circle(particle.x, 7, css(theme.paper), css(theme.ink));
  }

  return particle;
}

const pair = ([a, b]: Points): string => `(${short(a)}, ${short(b)})`;

/** The step size α = σ²/2, the package's at its smallest level: an eighth of where steps begin to diverge. */
function stepSize(sigma: number): number {
  return sigma ** 2 / 2;
}

export const open: Open = (query, signal) => {
  const settings = new Settings("scores", SETTINGS, query);
  const { values } = settings;
  const particle = particleOf(values.x, values.y);
  const own = [...decode(values.points)];
  let truth: Distribution | undefined;
  let [clean, noise]: Points[] = [new Float64Array(), new Float64Array()];
  let stale = true; // what stands still has to be drawn again

  const still = new Stage({ "aria-hidden": "true" }, refresh, signal);
  const attributes = { tabindex: "0", role: "application", "aria-label": LABEL, "aria-describedby": "keys" };
  const stage = new Stage(attributes, refresh, signal);
  const score: Score = (x, sigma) => truth?.score(x, sigma) ?? new Float64Array(x.length);
  const redraw = frames(draw, signal);

  function refresh(): void {
    stale = true;
    redraw();
  }

  /** Another distribution, or other points of one's own. */
  function choose(): void {
    const mine = values.data === "own";
    const points = own.length > 0 ? new Mixture(Float64Array.from(own), 0) : undefined;
    truth = mine ? points : DISTRIBUTIONS[values.data].make();
    const random = new Mulberry(0);
    clean = truth ? truth.sample(DRAWS, random) : new Float64Array();
    noise = clean.map(() => random.normal());
    drawing.hidden = !mine;
    counted.textContent = `${own.length / 2} of at most ${MOST_POINTS} points.`;
    if (mine) settings.set({ points: encode(own) });
    rest();
  }

  /** Stop the particle where it is, and draw everything. */
  function rest(): void {
    run(false);
    refresh();
    keep();
  }

  function keep(): void {
    const [x, y] = Array.from(particle.x, (value) => Number(within(value).toFixed(2)));
    settings.set({ x, y });
  }

  function run(running: boolean): void {
    particle.running = running && truth !== undefined;
    if (particle.running && calm()) {
      walk(STEPS_AT_ONCE);
      particle.running = false;
    }
    go.textContent = particle.running ? "Pause" : "Run";
    redraw();
  }

  const walk = (count: number): void => particle.walk(score, values.sigma, count, values.noise === "yes");

  function drawStill(): void {
    still.clear();
    const noisy = clean.map((value, i) => value + values.sigma * noise[i]);
    if (truth && values.density === "yes") density(still, truth.density(values.sigma), still.theme.accent, 0.55);
    if (values.draws === "yes") still.dots(noisy, css(still.theme.ink, 0.4), 1.6);
    if (truth && values.arrows === "yes") {
      const count = arrowCount(still);
      arrows(still, truth.field(count, values.sigma), count);
    }
    if (values.data === "own") still.dots(Float64Array.from(own), css(still.theme.accent), 5);
    frame(still);
    stale = false;
  }

  function draw(): boolean {
    if (particle.running) walk(1);
    if (stale) drawStill();
    stage.clear();
    stage.element.classList.toggle("pen", draws());
    drawParticle();
    return particle.running;
  }

  function drawParticle(): void {
    const s = score(particle.x, values.sigma);
    const mean = particle.x.map((value, i) => value + values.sigma ** 2 * s[i]);
    particle.draw(stage, truth && mean);
    const none = "none: draw a point";
    numbers.say("place", pair(particle.x));
    numbers.say("score", truth ? `${pair(s)}, length ${short(Math.hypot(s[0], s[1]))}` : none);
    numbers.say("density", truth ? `${short(truth.logDensity(particle.x, values.sigma)[0])} nats` : none);
    numbers.say("mean", truth ? pair(mean) : none);
    numbers.say("steps", `${particle.steps} of size α = σ²/2 = ${short(stepSize(values.sigma))}`);
  }

  function add(x: number, y: number): void {
    if (own.length / 2 >= MOST_POINTS) return announce(`There are ${MOST_POINTS} points already, which is the most.`);
    own.push(...decode(encode([x, y]))); // to where the address has it
    choose();
  }

  const draws = (): boolean => values.data === "own" && values.pen === "yes";
  movable(stage, {
    takes: (x, y) => draws() || (Math.hypot(x - particle.x[0], y - particle.x[1]) * stage.size) / (2 * VIEW) < NEAR,
    drag: (x, y, first) => {
      if (draws()) {
        const far = Math.hypot(x - own[own.length - 2], y - own[own.length - 1]);
        return first || far > APART ? add(x, y) : undefined;
      }
      particle.put(x, y);
      run(false);
    },
    release: () => {
      if (draws()) return;
      keep();
      run(true);
    },
    nudge: (dx, dy) => {
      particle.put(particle.x[0] + dx, particle.x[1] + dy);
      rest();
      tell(`Particle at ${pair(particle.x)}, score ${pair(score(particle.x, values.sigma))}`);
    },
    key: (key) => {
      const mine = values.data === "own";
      if (key === " ") run(!particle.running);
      else if (key === "Enter" && mine) add(particle.x[0], particle.x[1]);
      else if (key === "Backspace" && mine) remove(-2);
      else return false;
      return true;
    },
  });

  /** Removes own points from a place on. */
  function remove(from: number): void {
    own.splice(from);
    choose();
  }

  const numbers = readings({
    place: "Particle x",
    score: "Score s there",
    density: "Log density log p_σ",
    mean: "Denoised x + σ²s",
    steps: "Steps",
  });
  const go = primary("Run", () => run(!particle.running));
  const counted = el("p");
  const clear = button("Remove all points", () => remove(0));
  const drawing = el("div", { class: "group" }, settings.control("pen", redraw), counted, clear);
  const layers = (["arrows", "density", "draws"] as const).map((name) => settings.control(name, refresh));
  const controls = [
    row(go, settings.control("noise")),
    settings.control("data", choose),
    settings.control("sigma", () => {
      refresh();
      keep();
    }),
    drawing,
    row(...layers),
    numbers.element,
  ];
  choose();
  if (!query.has("x") && !calm()) run(true);
  return layout("scores", [el("div", { class: "stack" }, still.element, stage.element)], controls);
};
