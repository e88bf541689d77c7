// Parts that need the model: what is fetched is seen, and what is missing is said.
import { type Engine, type State, start } from "../digits/engine.ts";
import { type Readings, el, readings, short } from "../ui.ts";
import { type Open, layout } from "./part.ts";

const DEVICES = { auto: "What there is", webgpu: "WebGPU", wasm: "WebAssembly" };
/** By what the network is computed: a setting whose change loads the model again. */
export const DEVICE = { label: "Compute by", value: "auto", options: DEVICES };

/** What is shown once the model is there; ``again`` loads it anew, for what an address says then. */
type Build = (
  engine: Engine,
  query: URLSearchParams,
  again: (query: URLSearchParams) => void,
  signal: AbortSignal,
) => { pictures: Node[]; controls: Node[] };

/** A part that loads the model first. */
export function withModel(name: string, build: Build): Open {
  return (query, signal) => {
    const element = el("div");
    let shown = new AbortController();
    signal.addEventListener("abort", () => shown.abort());

    function put(pictures: Node[], controls: Node[]): void {
      const focused = element.querySelector("h1") === document.activeElement;
      element.replaceChildren(layout(name, pictures, controls));
      if (focused) element.querySelector("h1")?.focus();
    }

    async function load(query: URLSearchParams): Promise<void> {
      shown.abort();
      shown = new AbortController();
      const { signal: alive } = shown;
      const [bar, label] = [el("progress", { "aria-label": "Loading" }), el("p", { class: "loading" })];
      put([label, bar], []);
      try {
        const engine = await start(query.get("device") ?? "auto", (message, share) => {
          label.textContent = message;
          if (share === undefined) bar.removeAttribute("value");
          else bar.value = share;
        });
        if (alive.aborted) return engine.stop();
        alive.addEventListener("abort", () => engine.stop());
        const { pictures, controls } = build(engine, query, load, alive);
        const sentence = `${engine.note}. Computed by WebAssembly instead.`;
        const note = engine.note ? [el("p", { class: "note" }, sentence)] : [];
        put([...note, ...pictures], controls);
      } catch (error) {
        bar.remove();
        label.setAttribute("role", "alert");
        label.textContent = `The model cannot be shown: ${error instanceof Error ? error.message : String(error)}.`;
      }
    }

    void load(query);
    return element;
  };
}

type Labels = Record<string, string>;

/** How far drawing is, among other numbers, which stand before or after. */
export function drawingReadings(engine: Engine, before: Labels, after: Labels): Readings {
  const middle = { sigma: "Noise level σ", evaluations: "Evaluations of the network, each", seconds: "Time" };
  const numbers = readings({ ...before, ...middle, ...after, by: "Computed by" });
  numbers.say("by", engine.title);
  return numbers;
}

export const sayLevel = (numbers: Readings, sigma: number): void =>
  numbers.say("sigma", sigma > 0 ? short(sigma) : "0, denoised");

/** Where drawing is; at its end, its time in words. */
export function sayState(numbers: Readings, { sigma, evaluations, seconds, last }: State, time: string): void {
  sayLevel(numbers, sigma);
  numbers.say("evaluations", String(evaluations));
  numbers.say("seconds", last ? time : `${seconds.toFixed(1)} s so far`);
}
