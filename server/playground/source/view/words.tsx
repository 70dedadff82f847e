import { useRef, useState } from "preact/hooks";
import { type Answer, lift, type Mark, pull, type Word, words } from "../answer";
import { listed, number, signed } from "../format";
import type { Playground } from "../playground";
import { STRONGEST } from "../settings";
import type { Weighing } from "../weighing";

interface WordsProps {
  playground: Playground;
  answer: Answer;
  /** The reward that words are tinted by, STRONGEST for each word's own, "" for none. */
  tint: string;
}

/** An answer's words. One is in the order of tabs, arrow keys go to the others; each tells its figures. */
export function Words({ playground, answer, tint }: WordsProps) {
  const found = words(answer);
  const [reached, reach] = useState(0);
  const [looked, look] = useState<number | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const current = Math.min(reached, Math.max(0, found.length - 1));
  const marks = marksBefore(answer.marks, found);

  const keys = (event: KeyboardEvent) => {
    const next = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: found.length - 1 }[event.key];
    if (event.key === "Escape") look(null);
    if (next === undefined || !found[next]) return;
    event.preventDefault();
    reach(next);
    box.current?.querySelector<HTMLElement>(`[data-word="${next}"]`)?.focus();
  };
  const about = looked === null ? null : found[looked];
  return (
    <div class="answer" ref={box} onKeyDown={keys}>
      <p>
        {found.map((word, index) => (
          <>
            {marks.get(index)?.map((mark) => <MarkView key={`mark ${mark.at}`} mark={mark} />)}
            {word.space}
            <span
              key={index}
              data-word={index}
              class={`word ${tinted(word, tint, answer, playground.weighing)}`}
              tabIndex={index === current ? 0 : -1}
              aria-describedby={looked === index ? "figures-of-word" : undefined}
              onFocus={() => {
                reach(index);
                look(index);
              }}
              onBlur={() => look(null)}
              onMouseEnter={() => look(index)}
              onMouseLeave={() => look(null)}
            >
              {word.text}
            </span>
          </>
        ))}
        {marks.get(found.length)?.map((mark) => <MarkView key={`mark ${mark.at}`} mark={mark} />)}
        {answer.going && <span class="caret" aria-hidden="true" />}
      </p>
      {about && <Tip word={about} box={box.current} index={looked!} />}
    </div>
  );
}

/** The place from which new weights hold. */
function MarkView({ mark }: { mark: Mark }) {
  return (
    <span class="mark" role="note" title={`From token ${mark.at} on: ${listed(mark.weights)}`}>
      <span class="unseen">From here on: </span>
      {listed(mark.weights)}
    </span>
  );
}

/** By index of the word that they stand before; those ahead of all words are left out until words come. */
function marksBefore(marks: Mark[], found: Word[]): Map<number, Mark[]> {
  const places = new Map<number, Mark[]>();
  const last = found.at(-1);
  for (const mark of marks) {
    const index = found.findIndex((word) => word.first >= mark.at);
    const ahead = last !== undefined && mark.at > last.first + last.tokens.length;
    if (index < 0 && ahead) continue;
    const place = index < 0 ? found.length : index;
    places.set(place, [...(places.get(place) ?? []), mark]);
  }
  return places;
}

/** The classes of a word: whose colour and line it wears, and how much of it. */
function tinted(word: Word, tint: string, answer: Answer, weighing: Weighing): string {
  if (tint === "") return "";
  if (tint !== STRONGEST) return `${weighing.hue(tint)} ${strength(lift(word, tint) ?? 0)}`;
  const most = pull(word, answer.weightsAt(word.first));
  return most === null ? "" : `${weighing.hue(most.reward)} ${weighing.line(most.reward)} ${strength(most.nats)}`;
}

/** The class of a word that is moved towards (or away) by so many nats. */
function strength(nats: number): string {
  if (Math.abs(nats) < 0.4) return "";
  const size = Math.abs(nats) < 1.2 ? 1 : Math.abs(nats) < 2.5 ? 2 : 3;
  return `${nats > 0 ? "up" : "down"}-${size}`;
}

function Tip({ word, box, index }: { word: Word; box: HTMLElement | null; index: number }) {
  const at = box?.querySelector<HTMLElement>(`[data-word="${index}"]`);
  const left = Math.max(0, Math.min(at?.offsetLeft ?? 0, (box?.clientWidth ?? 0) - 240));
  const top = (at?.offsetTop ?? 0) + (at?.offsetHeight ?? 0) + 4;
  const names = [...new Set(word.tokens.flatMap((token) => Object.keys(token.rewards)))];
  const sum = (of: (token: Word["tokens"][number]) => number) => word.tokens.reduce((all, one) => all + of(one), 0);
  const scale = Math.min(...word.tokens.map((token) => token.scale));
  const flipped = word.tokens.find((token) => token.baseTop !== token.mixTop);
  return (
    // The policy forbids style attributes; Preact sets these through the object model.
    <div class="tip" role="tooltip" id="figures-of-word" style={{ left: `${left}px`, top: `${top}px` }}>
      <p class="what">“{word.text}”</p>
      <dl>
        {names.map((name) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              {signed(lift(word, name) ?? 0)} <span class="note">over the base</span>
            </dd>
          </div>
        ))}
        <div>
          <dt>log-prob, base</dt>
          <dd>{signed(sum((token) => token.base))}</dd>
        </div>
        <div>
          <dt>KL</dt>
          <dd>{number(sum((token) => token.kl))} nats</dd>
        </div>
      </dl>
      {flipped && <p class="note">The base alone prefers “{flipped.baseTop.trim() || "a space"}”.</p>}
      {scale < 1 && <p class="note">The limit of KL left {number(scale)} of the weights.</p>}
    </div>
  );
}
