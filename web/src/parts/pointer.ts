// Pointers, fingers and keys on a canvas.
import type { Stage } from "../draw/stage.ts";

const KEYS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
};

export interface Moves {
  /** Whether a finger that touches here has work to do; else it scrolls the page. */
  takes(x: number, y: number): boolean;
  /** The pointer is down, or moves while it is. */
  drag(x: number, y: number, first: boolean): void;
  release(): void;
  /** An arrow key, by so much. */
  nudge(dx: number, dy: number): void;
  /** Any other key; returns whether it had a meaning. */
  key(key: string): boolean;
}

/** Lets a stage be moved on, by pointer, finger or keys. */
export function movable(stage: Stage, moves: Moves): void {
  const canvas = stage.element;
  let down = false;
  const begin = (event: PointerEvent): void => {
    const [x, y] = stage.place(event);
    // A finger elsewhere scrolls; where it only taps, a click follows.
    if (event.button !== 0 || (event.pointerType === "touch" && !moves.takes(x, y))) return;
    down = true;
    canvas.setPointerCapture(event.pointerId);
    moves.drag(x, y, true);
  };
  const end = (): void => {
    if (down) moves.release();
    down = false;
  };
  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", (event) => {
    if (down) moves.drag(...stage.place(event), false);
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("click", (event) => {
    if ((event as PointerEvent).pointerType !== "touch" || moves.takes(...stage.place(event))) return;
    moves.drag(...stage.place(event), true);
    moves.release();
  });
  canvas.addEventListener(
    "touchstart",
    (event) => {
      if (event.touches.length === 1 && moves.takes(...stage.place(event.touches[0]))) event.preventDefault();
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const arrow = KEYS[event.key];
    const step = event.shiftKey ? 1 : 0.2;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) moves.nudge(step * arrow[0], step * arrow[1]);
    if (arrow || moves.key(event.key)) event.preventDefault();
  });
}
