import type { Answer } from "../answer";
import { listed, number } from "../format";
import type { Playground } from "../playground";
import { Words } from "./words";

interface ColumnProps {
  playground: Playground;
  title: string;
  answer: Answer;
}

/** One side's answer: its text, what went wrong, its figures. */
export function Column({ playground, title, answer }: ColumnProps) {
  const about = title === "Base" ? "every weight 0" : listed(answer.weights);
  const later = answer.marks.length > 0 ? ` → ${listed(answer.lastWeights)}` : "";
  return (
    <section class={`column ${title.toLowerCase()}`} aria-busy={answer.going}>
      <h3>
        {title}{" "}
        <span class="note">
          {about}
          {later}
        </span>
      </h3>
      <Words playground={playground} answer={answer} tint={title === "Base" ? "" : playground.tint} />
      {answer.problem && (
        <p class="problem" role="alert">
          {answer.problem.message}
        </p>
      )}
      <Figures answer={answer} />
    </section>
  );
}

function Figures({ answer }: { answer: Answer }) {
  const { tokens, kl, flips, perSecond } = answer.figures;
  const known = tokens > 0;
  return (
    <dl class="figures">
      <Figure name="KL" title="KL(guided ‖ base) per token, in nats" value={known ? kl.toFixed(2) : "–"} />
      <Figure
        name="flips"
        title="Tokens where the base's favourite is not the mix's"
        value={known ? `${number(100 * flips, 0)} %` : "–"}
      />
      <Figure name="tokens" title="Tokens so far" value={String(tokens)} />
      <Figure name="tokens/s" title="As fast as the server writes" value={perSecond ? number(perSecond, 0) : "–"} />
      {answer.finish === "length" && <Figure name="ended" title="At the limit of tokens" value="at limit" />}
      {answer.finish === "stopped" && <Figure name="ended" title="You stopped it" value="stopped" />}
    </dl>
  );
}

function Figure({ name, title, value }: { name: string; title: string; value: string }) {
  return (
    <div title={title}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
