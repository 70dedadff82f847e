import type { Playground } from "../playground";

/** What the tints mean. */
export function Legend({ playground }: { playground: Playground }) {
  const { tint } = playground;
  if (!tint) return null;
  return (
    <p class={`legend note ${playground.weighing.hue(tint)}`}>
      <span class="word up-3">words</span> {tint} likes better than the base does, <span class="word down-3">words</span>{" "}
      it likes less. Point at a word, or walk with the arrow keys, for its figures.
    </p>
  );
}
