// The page: which part is shown, by the address; parts are loaded when they are wanted.
import type { Open } from "./parts/part.ts";
import { parse } from "./settings.ts";
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
let part = new AbortController(); // ends the part that is shown
let ticket = 0;

async function show(moved: boolean): Promise<void> {
  const mine = ++ticket;
  const { name, query } = parse(location.hash);
  const known = Object.hasOwn(PARTS, name) ? name : "scores";
  const { title, load } = PARTS[known];
  const waiting = setTimeout(() => announce(`${title} is being loaded.`), 300);
  try {
    const { open } = await load();
    if (mine !== ticket) return; // another part was asked for since
    part.abort();
    part = new AbortController();
    main.replaceChildren(open(query, part.signal));
    document.title = `${title} · Scores, to touch`;
    for (const link of links) link.setAttribute("aria-current", link.hash === `#${known}` ? "page" : "false");
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
