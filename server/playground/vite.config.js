// Relative addresses, so that the page also works under a prefix; nothing inlined, as its policy forbids that.
export default {
  base: "./",
  build: {
    outDir: "static",
    assetsDir: "page",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
};
