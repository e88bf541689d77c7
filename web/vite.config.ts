// The page, built into ../site: relative addresses, so that any host can serve it from any folder.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    outDir: "../site",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the Content-Security-Policy allows no data: addresses
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
});
