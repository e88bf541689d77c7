// Part 1: the exact score of a noised distribution, as arrows; its density, draws of it, and a particle.
import { arrowCount, arrows, density, frame } from "../draw/field.ts";
import { Stage } from "../draw/stage.ts";
import { css } from "../draw/theme.ts";
import { Loop } from "../loop.ts";
import { DISTRIBUTIONS, type Distribution } from "../maths/distributions.ts";
import { Mixture } from "../maths/mixture.ts";
import { type Points, type Score, VIEW } from "../maths/plane.ts";
import { Mulberry } from "../maths/random.ts";
import { read, write } from "../state.ts";
import { announce, button, calm, choice, el, readings, short, slider, toggle } from "../ui.ts";
import { MOST_POINTS, WRITTEN, decode, encode, example } from "./own.ts";
import { Particle, stepSize } from "./particle.ts";
import { type Open, type Text, layout } from "./part.ts";
import { movable } from "./pointer.ts";

const DRAWS = 2000;
const STEPS_A_FRAME = 4;
const STEPS_AT_ONCE = 400; // where motion is not wanted
const APART = 0.15; // between points that are drawn in one stroke
const NEAR = 28; // CSS pixels, for a finger
const SIGMA = { min: 0.05, max: 20, log: true };
const POSITION = { min: -VIEW, max: VIEW };
const DEFAULTS = { data: "gaussian", sigma: 1, x: -6, y: 4, points: encode(example()) };
const NAMES = { ...Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { title }]) => [name, title])), own: "Your own points" };
const ALLOWED = { data: Object.keys(NAMES), sigma: SIGMA, x: POSITION, y: POSITION, points: WRITTEN };

export const open: Open = (query) => {
  const state = read(query, DEFAULTS, ALLOWED);
  const particle = new Particle(state.x, state.y, new Mulberry(1));
  const shown = { arrows: true, density: true, draws: true };
  let own = [...decode(state.points)];
  let truth: Distribution | undefined;
  let [clean, noise]: Points[] = [new Float64Array(), new Float64Array()];
  let stale = true; // what stands still has to be drawn again

  const label = "The plane, with the score as arrows, the density as colour, and a particle";
  const still = new Stage({ "aria-hidden": "true" }, () => refresh());
  const stage = new Stage({ tabindex: "0", role: "application", "aria-label": label, "aria-describedby": "keys" }, () => refresh());
  const score: Score = (x, sigma, out) => truth?.score(x, sigma, out);
  const loop = new Loop(draw);

  function refresh(): void {
    stale = true;
    loop.request();
  }

  /** Another distribution, or other points of one's own. */
  function choose(): void {
    const mine = state.data === "own";
    truth = !mine ? DISTRIBUTIONS[state.data].make() : own.length > 0 ? new Mixture(Float64Array.from(own), 0) : undefined;
    const random = new Mulberry(0);
    clean = truth ? truth.sample(DRAWS, random) : new Float64Array();
    noise = clean.map(() => random.normal());
    drawing.hidden = !mine;
    counted.textContent = `${own.length / 2} of at most ${MOST_POINTS} points.`;
    if (mine) state.points = encode(own);
    rest();
  }

  /** Stop the particle where it is, and draw everything. */
  function rest(): void {
    hold(false);
    refresh();
    keep();
  }

  function keep(): void {
    [state.x, state.y] = Array.from(particle.x, (value) => Number(Math.max(-VIEW, Math.min(VIEW, value)).toFixed(2)));
    write("scores", state, DEFAULTS);
  }

  function hold(running: boolean): void {
    particle.running = running && truth !== undefined;
    go.textContent = particle.running ? "Hold" : "Let go";
    if (particle.running && calm()) {
      particle.walk(score, state.sigma, STEPS_AT_ONCE);
      hold(false);
    }
    loop.request();
  }

  function drawStill(): void {
    still.clear();
    const noisy = clean.map((value, i) => value + state.sigma * noise[i]);
    if (truth && shown.density) density(still, truth.density(state.sigma));
    if (shown.draws) still.dots(noisy, css(still.theme.ink, 0.4), 1.6);
    if (truth && shown.arrows) {
      const count = arrowCount(still);
      arrows(still, truth.field(count, state.sigma), count);
    }
    if (state.data === "own") still.dots(Float64Array.from(own), css(still.theme.accent), 5);
    frame(still);
    stale = false;
  }

  function draw(): boolean {
    if (particle.running) particle.walk(score, state.sigma, STEPS_A_FRAME);
    if (stale) drawStill();
    stage.clear();
    drawParticle();
    return particle.running;
  }

  function drawParticle(): void {
    const s = new Float64Array(2);
    score(particle.x, state.sigma, s);
    const mean = particle.x.map((value, i) => value + state.sigma ** 2 * s[i]);
    particle.draw(stage, truth && mean);
    const pair = ([a, b]: Points): string => `(${short(a)}, ${short(b)})`;
    numbers.say("place", pair(particle.x));
    numbers.say("score", truth ? `${pair(s)}, length ${short(Math.hypot(s[0], s[1]))}` : "none without points");
    numbers.say("density", truth ? `${short(truth.logDensity(particle.x, state.sigma)[0])} nats` : "none without points");
    numbers.say("mean", truth ? pair(mean) : "none without points");
    numbers.say("steps", `${particle.steps}, each with α = σ²/2 = ${short(stepSize(state.sigma))}`);
  }

  function add(x: number, y: number): void {
    if (own.length / 2 >= MOST_POINTS) return announce(`There are ${MOST_POINTS} points, and no more are possible.`);
    own.push(Math.max(-VIEW, Math.min(VIEW, x)), Math.max(-VIEW, Math.min(VIEW, y)));
    choose();
  }

  const draws = (): boolean => state.data === "own" && pen.value;
  movable(stage, {
    takes: (x, y) => draws() || (Math.hypot(x - particle.x[0], y - particle.x[1]) * stage.size) / (2 * VIEW) < NEAR,
    drag: (x, y, first) => {
      if (draws()) {
        const far = Math.hypot(x - own[own.length - 2], y - own[own.length - 1]);
        return first || far > APART ? add(x, y) : undefined;
      }
      particle.put(x, y);
      hold(false);
    },
    release: () => (draws() ? undefined : (keep(), hold(true))),
    nudge: (dx, dy) => {
      particle.put(particle.x[0] + dx, particle.x[1] + dy);
      rest();
    },
    key: (key) => {
      if (key === " ") hold(!particle.running);
      else if (key === "Enter" && state.data === "own") add(particle.x[0], particle.x[1]);
      else if (key === "Backspace" && state.data === "own") (own.splice(-2), choose());
      else return false;
      return true;
    },
  });

  const numbers = readings({ place: "Particle x", score: "Score s(x, σ)", density: "log p_σ(x)", mean: "Clean mean x + σ²s", steps: "Steps" });
  const go = button("Let go", () => hold(!particle.running), "primary");
  const pen = toggle("The pointer draws points, instead of moving the particle", true, () => {});
  const counted = el("p");
  const clear = button("Remove all points", () => {
    own = [];
    choose();
  });
  const drawing = el("div", { class: "group" }, pen.element, counted, clear);
  const controls = [
    choice("Distribution", NAMES, state.data, (name) => ((state.data = name), choose())).element,
    slider("Noise level σ", SIGMA, state.sigma, (sigma) => ((state.sigma = sigma), refresh(), keep())).element,
    drawing,
    el(
      "div",
      { class: "row" },
      toggle("Arrows", true, (on) => ((shown.arrows = on), refresh())).element,
      toggle("Density", true, (on) => ((shown.density = on), refresh())).element,
      toggle("Noised draws", true, (on) => ((shown.draws = on), refresh())).element,
      toggle("Noise on the way", true, (on) => (particle.noisy = on)).element,
    ),
    go,
    numbers.element,
  ];
  const keys = el("p", { class: "hint", id: "keys" }, "Drag the particle and let it go. By keys: arrows move it, with Shift in larger steps; Space lets it go or holds it; among your own points, Enter adds one where it is and Backspace removes the last.");
  choose();
  return {
    element: layout(TEXT, [el("div", { class: "stack" }, still.canvas, stage.canvas), keys], controls),
    stop: () => (loop.stop(), still.stop(), stage.stop()),
  };
};

const TEXT: Text = {
  title: "Scores",
  below: "controls",
  intro:
    "The score of a density p is the vector field ∇ₓ log p(x): at each place, where and how fast the density grows. Noise of standard deviation σ makes the data’s density p_σ smoother, and for these distributions its score is known exactly.",
  lookFor: [
    "Small σ: far from the data the arrows still point to it, but no noised data is there (the dots). A network that learns from data never sees those places: the paper’s section 3.2.1.",
    "Large σ: the dots are everywhere, so that a score can be learned everywhere; but the modes have become one. Between both, many levels: section 4.",
    "Two Gaussians at σ = 0.5: near a mode, the arrows are the same whether it holds a fifth of the mass or four fifths. Scores of modes far apart say nothing of their weights (section 3.2.2); at σ = 5 they do.",
    "Let the particle go: it walks by Langevin dynamics, x + (α/2)·s(x, σ) + √α·z (equation 4). Without noise on the way it only climbs.",
    "The open circle is x + σ²·s(x, σ), the mean of all clean points that can have become x: a score is a denoiser (Tweedie’s formula).",
  ],
};
