// Adam (Kingma & Ba 2015, algorithm 1), and an average of the weights along the way.

const BETA1 = 0.9;
const BETA2 = 0.99;

export class Adam {
  step = 0;
  readonly average: Float64Array;
  readonly #first: Float64Array;
  readonly #second: Float64Array;

  constructor(parameters: Float64Array) {
    this.average = parameters.slice();
    this.#first = new Float64Array(parameters.length);
    this.#second = new Float64Array(parameters.length);
  }

  /** Moves the parameters; the average of the last tenth of all steps, or so, moves along. */
  update(parameters: Float64Array, gradient: Float64Array, rate: number): void {
    this.step++;
    const scale1 = 1 - BETA1 ** this.step;
    const scale2 = 1 - BETA2 ** this.step;
    const fresh = 10 / (9 + this.step);
    for (let i = 0; i < parameters.length; i++) {
      const g = gradient[i];
      const m = (this.#first[i] += (1 - BETA1) * (g - this.#first[i]));
      const v = (this.#second[i] += (1 - BETA2) * (g * g - this.#second[i]));
      parameters[i] -= (rate * m) / scale1 / (Math.sqrt(v / scale2) + 1e-8);
      this.average[i] += Math.min(1, fresh) * (parameters[i] - this.average[i]);
    }
  }
}
