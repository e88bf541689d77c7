// Frames, drawn when there is something new.

/** Draws in the next frame when asked to; and again, as long as ``draw`` returns true. */
export class Loop {
  readonly #draw: () => boolean;
  #frame = 0;

  constructor(draw: () => boolean) {
    this.#draw = draw;
  }

  request(): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(this.#tick);
  }

  stop(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  readonly #tick = (): void => {
    this.#frame = 0;
    if (this.#draw()) this.request();
  };
}
