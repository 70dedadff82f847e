import type { Playground } from "../playground";
import { STRONGEST } from "../settings";

/** What the tints mean. */
export function Legend({ playground }: { playground: Playground }) {
  const { tint, weighing } = playground;
  if (!tint) return null;
  return (
    <p class="legend note">
      {tint === STRONGEST ? (
        <>
          Words wear the colour and line of the reward that moved them most:{" "}
          {weighing.rewards.map(({ name }) => (
            <>
              <span class={`word up-2 ${weighing.hue(name)} ${weighing.line(name)}`}>{name}</span>{" "}
            </>
          ))}
        </>
      ) : (
        <>
          <span class={`word up-3 ${weighing.hue(tint)}`}>words</span> {tint} likes better than the base does,{" "}
          <span class="word down-3">words</span> it likes less.
        </>
      )}{" "}
      Point at a word, or walk with the arrow keys, for its figures.
    </p>
  );
}
