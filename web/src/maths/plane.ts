// Points and grids in the plane.

/** Points in the plane, x and y in turn: x₀, y₀, x₁, y₁, … */
export type Points = Float64Array;

/** Everything is drawn on [−VIEW, VIEW]², where the paper's figures are. */
export const VIEW = 8;

/** The nearest number between −VIEW and VIEW. */
export const within = (value: number): number => Math.max(-VIEW, Math.min(VIEW, value));

/** The centre of cell ``i`` of ``cells`` between −VIEW and VIEW. */
export function centre(i: number, cells: number): number {
  return ((2 * i + 1) / cells - 1) * VIEW;
}

/** The centres of cells × cells squares, row by row from the bottom. */
export function gridPoints(cells: number): Points {
  const points = new Float64Array(2 * cells * cells);
  for (let at = 0; at < cells * cells; at++) {
    points.set([centre(at % cells, cells), centre(Math.floor(at / cells), cells)], 2 * at);
  }
  return points;
}

/** A density at the centres of cells × cells squares, row by row from the bottom. */
export interface Grid {
  cells: number;
  values: Float64Array;
}

/** Cells that show detail of size ``std``: three to one, at least 24 and at most 192 a side. */
export function cellsFor(std: number): number {
  return Math.min(192, Math.max(24, Math.ceil((6 * VIEW) / std)));
}

/** A score: ∇ log p_σ at each of the points, written to ``out``. */
export type Score = (x: Points, sigma: number, out: Points) => void;
