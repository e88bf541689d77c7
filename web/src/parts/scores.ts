// Part 1: a point, its noise and the arrow back; the exact score of noisy data; and a particle that follows it.
import { Stage, arrowCount, arrows, css, density, frame, frames, movable } from "../draw/stage.ts";
import { denoised, langevinStep } from "../maths/langevin.ts";
import { Mulberry, type Points, type Score, viewOf } from "../maths/plane.ts";
import { DISTRIBUTIONS, Mixture, TITLES } from "../maths/distributions.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, button, calm, el, primary, readings, row, short, tell } from "../ui.ts";
import { MOST_POINTS, WRITTEN, decode, encode, example } from "./own.ts";
import { type Open, layout } from "./part.ts";

const LONGEST = 120; // steps of the path that are shown
const FRAMES = 60; // in which noise is added
const DRAWS = 2000;
const STEPS_AT_ONCE = 400; // where motion is not wanted
const APART = 0.15; // between points that are drawn in one stroke
const NEAR = 28; // CSS pixels, for a finger
const FARTHEST = viewOf(20);
const PLACE = { value: 0, min: -FARTHEST, max: FARTHEST };
const POINT = new Mixture(Float64Array.of(-3, -1.5), 0);
const SHOWS = {
  one: "Data, and one point with noise",
  noisy: "All points with noise",
  density: "Density of the noisy points",
  all: "Density, points and arrows",
};
const SETTINGS = {
  data: { label: "Data", value: "point", options: { point: "One point", ...TITLES, own: "Your own points" } },
  show: { label: "Show", value: "one", options: SHOWS },
  sigma: { label: "Noise level σ ?sigma", value: 2, min: 0.05, max: 20, log: true },
  seed: SEED, // of the noise
  x: PLACE, // of the particle, once it was moved
  y: PLACE,
  points: { value: encode(example()), pattern: WRITTEN },
  noise: { label: "Noise in each step", value: "yes", options: { yes: "Yes", no: "No" } },
  pen: { label: "The pointer", value: "yes", options: { yes: "Adds points", no: "Moves the particle" } },
};

/** A particle: a noisy data point, until it is moved or follows Langevin dynamics. */
function particleOf(x: Points) {
  const random = new Mulberry(1);
  const particle = { x, clean: undefined as Points | undefined, running: false, steps: 0, put, walk, draw };
  let path: number[] = [];

  /** Moves the particle and restarts its path. ``clean``: its position without noise. */
  function put(x: Points, clean?: Points): void {
    path = [...x];
    particle.x.set(x);
    [particle.clean, particle.steps] = [clean, 0];
  }

  /** Steps x + (α/2)·s(x, σ) + √α·z, or without z. */
  function walk(score: Score, sigma: number, count: number, noisy: boolean): void {
    for (let i = 0; i < count; i++) {
      const z = particle.x.map(() => (noisy ? random.normal() : 0));
      particle.x.set(langevinStep(particle.x, score(particle.x, sigma), stepSize(sigma), z));
      path.push(...particle.x);
    }
    particle.steps += count;
    particle.clean = undefined;
    path = path.slice(-2 * LONGEST);
  }

  /** Draws the particle, its noise or path, and an arrow to the ``mean`` of the clean point. */
  function draw(stage: Stage, mean: Points | undefined): void {
    const { theme } = stage;
    if (particle.clean) stage.line([...particle.clean, ...particle.x], css(theme.accent, 0.5), 6);
    stage.line(path, css(theme.paper, 0.8), 3.5);
    stage.line(path, css(theme.ink, 0.7), 1.2);
    if (mean) {
      stage.arrow(particle.x, mean, css(theme.ink), 1.8);
      stage.circle(mean, 6, css(theme.ink));
    }
    stage.circle(particle.x, 7, css(theme.paper), css(theme.ink));
  }

  return particle;
}

const pair = ([a, b]: Points): string => `(${short(a)}, ${short(b)})`;

/** The step size α = σ²/8: slow enough to follow by eye. Steps diverge from 32 times as much. */
const stepSize = (sigma: number): number => sigma ** 2 / 8;

export const open: Open = (query, signal) => {
  const settings = new Settings("scores", SETTINGS, query);
  const { values } = settings;
  const particle = particleOf(Float64Array.of(values.x, values.y));
  let added = 1; // the share of its noise that the particle has
  const own = [...decode(values.points)];
  let truth: Mixture | undefined;
  let [clean, noise]: Points[] = [new Float64Array(), new Float64Array()];
  let stale = true; // what stands still has to be drawn again

  const still = new Stage({ class: "stage", "aria-hidden": "true" }, refresh, signal);
  const stage = new Stage({ class: "stage", "aria-label": "Data and a particle" }, refresh, signal);
  const score: Score = (x, sigma) => truth?.score(x, sigma) ?? new Float64Array(x.length);
  const redraw = frames(draw, signal);

  const inside = (value: number): number => Math.max(-stage.view, Math.min(stage.view, value));

  function refresh(): void {
    still.view = stage.view = viewOf(values.sigma);
    if (particle.clean) noised(particle.clean);
    else if (particle.x.some((value) => inside(value) !== value)) particle.put(particle.x.map(inside));
    stale = true;
    redraw();
  }

  /** Changes the distribution or the user’s points. */
  function choose(): void {
    const mine = values.data === "own";
    const points = own.length > 0 ? new Mixture(Float64Array.from(own), 0) : undefined;
    truth = mine ? points : values.data === "point" ? POINT : DISTRIBUTIONS[values.data].make();
    const random = new Mulberry(0);
    clean = truth ? truth.sample(DRAWS, random) : new Float64Array();
    noise = clean.map(() => random.normal());
    drawing.hidden = !mine;
    counted.textContent = `${own.length / 2} of at most ${MOST_POINTS} points.`;
    if (mine) settings.set({ points: encode(own) });
    if (particle.clean) pick();
    run(false);
    refresh();
  }

  /** Makes the particle a data point, to which noise is added. */
  function begin(): void {
    run(false);
    added = calm() ? 1 : 0;
    pick();
    settings.set({ x: 0, y: 0 });
    refresh();
  }

  function pick(): void {
    if (truth) noised(truth.sample(1, new Mulberry(values.seed)));
    else particle.put(particle.x);
  }

  /** Shows the point with its noise, or with the fraction that has been added so far. */
  function noised(point: Points): void {
    const random = new Mulberry(values.seed + 1);
    const x = point.map((value) => value + added * values.sigma * random.normal());
    particle.put(x, point);
  }

  /** Moves the particle, but not out of sight. */
  function move(x: number, y: number): void {
    particle.put(Float64Array.of(inside(x), inside(y)));
    added = 1;
    run(false);
    const [atX, atY] = Array.from(particle.x, (value) => Number(value.toFixed(2)));
    settings.set({ x: atX, y: atY });
  }

  function run(running: boolean): void {
    if (running && !truth) announce("There is no data yet. Draw a point first, or choose other data.");
    particle.running = running && truth !== undefined;
    if (particle.running) added = 1;
    if (particle.running && calm()) {
      walk(STEPS_AT_ONCE);
      particle.running = false;
    }
    go.textContent = particle.running ? "Pause" : "Run";
    redraw();
  }

  const walk = (count: number): void => particle.walk(score, values.sigma, count, values.noise === "yes");

  function drawStill(): void {
    const { show, sigma, data } = values;
    const { ink, accent } = still.theme;
    still.clear();
    if (truth && ["density", "all"].includes(show)) density(still, truth.density(sigma, still.view), accent, 0.55);
    const noisy = show === "one" ? clean : clean.map((value, i) => value + sigma * noise[i]);
    if (show !== "density") still.dots(noisy, css(ink, 0.4), 1.6);
    if (truth && show === "all") {
      const count = arrowCount(still);
      arrows(still, truth.field(count, sigma, still.view), count);
    }
    const points = data === "own" ? Float64Array.from(own) : data === "point" ? POINT.means : undefined;
    if (points) still.dots(points, css(accent), 6);
    frame(still);
    stale = false;
  }

  function draw(): boolean {
    if (particle.running) walk(1);
    if (particle.clean && added < 1) {
      added = Math.min(1, added + 1 / FRAMES);
      noised(particle.clean);
    }
    if (stale) drawStill();
    stage.clear();
    stage.element.classList.toggle("pen", draws());
    drawParticle();
    return particle.running || added < 1;
  }

  function drawParticle(): void {
    const s = score(particle.x, values.sigma);
    const mean = denoised(particle.x, s, values.sigma);
    particle.draw(stage, truth && added === 1 ? mean : undefined);
    const none = "none: draw a point";
    numbers.say("place", pair(particle.x));
    numbers.say("score", truth ? `${pair(s)}, length ${short(Math.hypot(s[0], s[1]))}` : none);
    numbers.say("density", truth ? `${short(truth.logDensity(particle.x, values.sigma)[0])} nats` : none);
    numbers.say("mean", truth ? pair(mean) : none);
    numbers.say("steps", `${particle.steps} of size α = σ²/8 = ${short(stepSize(values.sigma))}`);
  }

  function add(x: number, y: number): void {
    if (own.length / 2 >= MOST_POINTS) return announce(`You can’t add more than ${MOST_POINTS} points.`);
    own.push(...decode(encode([x, y]))); // to where the address has it
    choose();
  }

  const draws = (): boolean => values.data === "own" && values.pen === "yes";
  movable(stage, {
    takes: (x, y) =>
      draws() || (Math.hypot(x - particle.x[0], y - particle.x[1]) * stage.width) / (2 * stage.view) < NEAR,
    drag: (x, y, first) => {
      if (draws()) {
        const far = Math.hypot(x - own[own.length - 2], y - own[own.length - 1]);
        return first || far > APART ? add(x, y) : undefined;
      }
      move(x, y);
    },
    release: () => {
      if (!draws()) run(true);
    },
    nudge: (dx, dy) => {
      move(particle.x[0] + dx, particle.x[1] + dy);
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

  /** Removes the user’s points from an index on. */
  function remove(from: number): void {
    own.splice(from);
    choose();
  }

  const numbers = readings({
    place: "Particle x",
    score: "Score s there ?score",
    density: "Log density log p_σ ?nats",
    mean: "Denoised x + σ²s",
    steps: "Steps",
  });
  const go = primary("Run", () => run(!particle.running));
  const counted = el("p");
  const clear = button("Remove all points", () => remove(0));
  const drawing = el("div", { class: "group" }, settings.control("pen", redraw), counted, clear);
  const other = button("New noise", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    begin();
  });
  const controls = [
    row(go, other),
    settings.control("data", choose),
    settings.control("show", refresh),
    settings.control("sigma", refresh),
    drawing,
    settings.control("noise"),
    numbers.element,
  ];
  choose();
  if (!query.has("x") && !query.has("y")) begin();
  return layout("scores", [el("div", { class: "stack" }, still.element, stage.element)], controls);
};
