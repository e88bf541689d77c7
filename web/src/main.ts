// The page: which part is shown, by the address; parts are loaded when they are wanted.
import type { Open, Part } from "./parts/part.ts";
import { forget, parse } from "./state.ts";
import { announce, el } from "./ui.ts";

const PARTS: Record<string, { title: string; load: () => Promise<{ open: Open }> }> = {
  scores: { title: "Scores", load: () => import("./parts/scores.ts") },
  anneal: { title: "Why anneal", load: () => import("./parts/anneal.ts") },
  learning: { title: "Learning", load: () => import("./parts/learning.ts") },
  digits: { title: "Digits", load: () => import("./parts/digits.ts") },
  fill: { title: "Fill in", load: () => import("./parts/fill.ts") },
};

const main = document.querySelector("main") as HTMLElement;
const links = Object.entries(PARTS).map(([name, { title }]) => el("a", { href: `#${name}` }, title));
let shown: Part | undefined;
let asked = 0;

async function show(moved: boolean): Promise<void> {
  const ticket = ++asked;
  const { name, query } = parse(location.hash);
  const found = Object.hasOwn(PARTS, name) ? name : "scores";
  const { title, load } = PARTS[found];
  forget();
  const waiting = setTimeout(() => announce(`${title} is being loaded.`), 300);
  try {
    const { open } = await load();
    if (ticket !== asked) return; // another part was asked for since
    shown?.stop();
    shown = open(query);
    main.replaceChildren(shown.element);
    document.title = `${title} · Scores, to touch`;
    for (const link of links) {
      if (link.hash === `#${found}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (moved) main.querySelector("h1")?.focus();
    scrollTo(0, 0);
  } catch (error) {
    announce(`${title} cannot be shown: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  } finally {
    clearTimeout(waiting);
  }
}

document.querySelector("nav")?.append(...links);
addEventListener("hashchange", () => void show(true));
void show(false);
