import assert from "node:assert/strict";
import { test } from "node:test";
import { type ScoreModel, adam, denoising, mlp, scoreModel } from "../src/maths/perceptron.ts";
import { relativeError, trainingOf } from "../src/learning/training.ts";
import { Mulberry, gridPoints } from "../src/maths/plane.ts";
import { close, values } from "./values.ts";

const given = values.learning;
const x = Float64Array.from(given.x);
const sigmas = Float64Array.from(new Set<number>(given.sigma));
const levels = Uint8Array.from(given.sigma, (sigma: number) => sigmas.indexOf(sigma));

function made(): ScoreModel {
  const network = mlp(given.width, given.depth);
  network.parameters.set(given.weights);
  return scoreModel(network, given.mean, given.std);
}

test("the network with the package's weights has the package's scores", () => {
  close(made().evaluate(x, sigmas, levels).y, given.score, 1e-6); // the package's frequencies are in single precision
});

test("denoising score matching has the package's loss and gradient", () => {
  const model = made();
  const loss = denoising(model, x, sigmas, levels, Float64Array.from(given.denoising.z));
  close([loss], [given.denoising.loss], 1e-6);
  close(model.network.gradient, given.denoising.gradient, 1e-6);
});

test("Adam takes torch's steps", () => {
  const model = made();
  model.network.gradient.set(given.sliced.gradient);
  const optimizer = adam(model.network.parameters);
  for (let i = 0; i < given.adam.steps; i++) optimizer.update(model.network.gradient, given.adam.rate);
  close(model.network.parameters, given.adam.weights, 1e-6);
});

test("a network that has not learned is the score of one Gaussian", () => {
  const network = mlp(8, 2);
  network.initialise(new Mulberry(1));
  const out = scoreModel(network, [1, -1], 2).score(Float64Array.of(1, -1, 3, 0), 1.5);
  close(out, [0, 0, -2 / 6.25, -1 / 6.25], 1e-12);
});

test("gradients do not depend on how large the batch before was", () => {
  const model = made();
  const z = Float64Array.from(given.denoising.z);
  denoising(model, x.slice(0, 4), sigmas, levels.slice(0, 2), z.slice(0, 4));
  denoising(model, x, sigmas, levels, z);
  close(model.network.gradient, given.denoising.gradient, 1e-6);
  assert.ok(model.network.gradient.some((value) => value !== 0));
});

test("the picture of the error is exact where there is data", () => {
  const training = trainingOf({ data: "circle", seed: 0 });
  for (let i = 0; i < 5; i++) training.learn();
  const { cells, values: error } = training.errorMap(0.1);
  const x = gridPoints(cells);
  const [exact, learned] = [training.truth.score(x, 0.1), training.score(x, 0.1)];
  const onCircle = Array.from(error.keys()).filter((i) => Math.abs(Math.hypot(x[2 * i], x[2 * i + 1]) - 5) < 0.1);
  assert.ok(cells >= 160 && onCircle.length > 500, `${cells} cells, ${onCircle.length} of them on the circle`);
  close(
    onCircle.map((i) => error[i]),
    onCircle.map((i) => relativeError(learned, exact, 2 * i, 2 * i + 2)),
    1e-9,
  );
});

test("samples begin as one Gaussian, where nothing is learned, and come to the data", () => {
  const training = trainingOf({ data: "gaussian", seed: 0 });
  const share = (): number => {
    const { sample } = training.measured();
    const near = training.truth.logDensity(sample, 0).filter((log) => log > -7).length;
    return near / (sample.length / 2);
  };
  const before = share();
  for (let i = 0; i < 150; i++) training.learn();
  assert.ok(before < 0.5 && share() > 0.7, `${before}, then ${share()}`);
});
