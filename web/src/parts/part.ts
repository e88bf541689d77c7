// What the page asks of a part of it.

/** Shows what an address says about a part; its frames, workers and listeners end with the signal. */
export type Open = (query: URLSearchParams, signal: AbortSignal) => HTMLElement;

/** A part's frame, as index.html has it, around pictures, controls, and what stands before what to look for. */
export function layout(name: string, pictures: Node[], controls: Node[], more: Node[] = []): HTMLElement {
  const template = document.getElementById(`part-${name}`) as HTMLTemplateElement;
  const section = document.importNode(template.content, true).firstElementChild as HTMLElement;
  section.querySelector(".pictures")?.prepend(...pictures);
  section.querySelector(".controls")?.append(...controls);
  section.querySelector(".look")?.prepend(...more);
  return section;
}
