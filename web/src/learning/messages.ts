// What the page and the worker that trains say to each other.
import type { Errors, Terms } from "./training.ts";

export type Order =
  | { kind: "begin"; training: number; terms: Terms }
  | { kind: "run"; steps: number }
  | { kind: "pause" }
  | { kind: "view"; level: number; count: number };

/** Where training is, and the fields at the level that is looked at. */
export interface Report {
  /** Which training it is about, as it was begun. */
  training: number;
  step: number;
  /** The average loss of the last steps. */
  loss: number;
  running: boolean;
  sigma: number;
  /** Scores at the centres of count × count squares. */
  exact: Float64Array;
  learned: Float64Array;
  count: number;
  /** ‖ŝ − s‖²/‖s‖² at the centres of cells × cells squares. */
  error: Float64Array;
  cells: number;
  errors: Errors;
}
