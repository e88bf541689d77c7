// The interface of a part.

/** Opens a part with the settings of an address; its frames, workers and listeners end with the signal. */
export type Open = (query: URLSearchParams, signal: AbortSignal) => HTMLElement;

/** The frame of a part from index.html, filled with pictures, controls, and elements before “What to look for”. */
export function layout(name: string, pictures: Node[], controls: Node[], more: Node[] = []): HTMLElement {
  const template = document.getElementById(`part-${name}`) as HTMLTemplateElement;
  const section = document.importNode(template.content, true).firstElementChild as HTMLElement;
  section.querySelector(".pictures")?.prepend(...pictures);
  section.querySelector(".controls")?.append(...controls);
  section.querySelector(".look")?.prepend(...more);
  return section;
}
