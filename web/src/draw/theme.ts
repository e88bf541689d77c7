// The colours of the page, for what is drawn on a canvas.

export type Colour = [red: number, green: number, blue: number];

export interface Theme {
  paper: Colour;
  ink: Colour;
  accent: Colour;
}

/** The colours that the style sheet gives. */
export function readTheme(): Theme {
  const style = getComputedStyle(document.documentElement);
  const painter = document.createElement("canvas").getContext("2d") as CanvasRenderingContext2D;
  const colour = (name: string): Colour => {
    painter.fillStyle = style.getPropertyValue(name); // in any notation; read back, it is #rrggbb
    const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(String(painter.fillStyle).slice(at, at + 2), 16));
    return [red, green, blue];
  };
  return { paper: colour("--paper"), ink: colour("--ink"), accent: colour("--accent") };
}

export function css([red, green, blue]: Colour, opacity = 1): string {
  return `rgb(${red} ${green} ${blue} / ${opacity})`;
}

/** Calls ``changed`` when dark becomes light or light dark; returns how to end that. */
export function whenThemeChanges(changed: () => void): () => void {
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", changed);
  return () => query.removeEventListener("change", changed);
}
