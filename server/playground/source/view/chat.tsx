import { useEffect, useRef, useState } from "preact/hooks";
import type { Conversation, Turn } from "../conversation";
import { useWatched } from "../observable";
import type { Playground } from "../playground";
import { same } from "../weighing";
import { Code } from "./code";
import { Column } from "./column";
import { Legend } from "./legend";

export function Chat({ playground }: { playground: Playground }) {
  const { conversation, connection, settings } = playground;
  useWatched(conversation);
  useWatched(settings);
  useWatched(playground.weighing);
  const end = useFollowed(conversation);
  const [code, show] = useState<Turn | null>(null);
  return (
    <>
      {conversation.turns.length === 0 ? <Welcome playground={playground} /> : <h1 class="unseen">Chat</h1>}
      <ol class="turns">
        {conversation.turns.map((turn, index) => (
          <li key={turn.number}>
            <TurnView
              playground={playground}
              turn={turn}
              last={index === conversation.turns.length - 1}
              code={() => show(turn)}
            />
          </li>
        ))}
      </ol>
      <div ref={end} />
      {conversation.turns.length > 0 && <Legend playground={playground} />}
      <Composer playground={playground} />
      <p class="unseen" role="status">
        {conversation.said}
      </p>
      {code && (
        <Code
          body={{ ...conversation.request(code, "guided") }}
          keyed={connection.key !== ""}
          close={() => show(null)}
        />
      )}
    </>
  );
}

function Welcome({ playground }: { playground: Playground }) {
  const { suggestions, conversation } = playground;
  return (
    <section class="welcome">
      <h1>Steer the answer while it is written</h1>
      <p>
        A base model writes. Small reward models pull every word their way, as hard as you set them. Ask something,
        then <strong>move a slider in mid-answer</strong> and see where the words change.
      </p>
      {suggestions.length > 0 && (
        <ul class="chips" aria-label="Questions to try">
          {suggestions.map((prompt) => (
            <li key={prompt}>
              <button
                type="button"
                onClick={() => {
                  conversation.write(prompt);
                  conversation.send();
                }}
              >
                {prompt}
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

interface TurnProps {
  playground: Playground;
  turn: Turn;
  last: boolean;
  code: () => void;
}

function TurnView({ playground, turn, last, code }: TurnProps) {
  const { conversation, weighing } = playground;
  const stale = last && !conversation.going && !same(turn.guided.lastWeights, weighing.weights);
  return (
    <article class="turn" data-number={turn.number}>
      <h2 class="question">
        <span class="unseen">You: </span>
        {turn.question}
      </h2>
      <div class={turn.base ? "columns two" : "columns"}>
        {turn.base && <Column playground={playground} title="Base" answer={turn.base} />}
        <Column playground={playground} title="Guided" answer={turn.guided} />
      </div>
      {last && conversation.unheard && (
        <p class="problem" role="alert">
          The running answer kept its weights: {conversation.unheard.message}
        </p>
      )}
      <div class="row actions">
        {last && turn.guided.going && !turn.guided.marks.length && weighing.rewards.length > 0 && (
          <span class="hint">Move a slider now: the words that follow change.</span>
        )}
        {last && !conversation.going && (
          <>
            {stale && (
              <button type="button" class="primary" onClick={() => conversation.again("rerun")}>
                Rerun with these weights
              </button>
            )}
            <button type="button" onClick={() => conversation.again("regenerate")}>
              Regenerate
            </button>
            <button type="button" onClick={() => conversation.edit()}>
              Edit
            </button>
          </>
        )}
        <button type="button" onClick={code}>
          Copy as code
        </button>
        <span class="note">seed {turn.seed}</span>
      </div>
    </article>
  );
}

function Composer({ playground }: { playground: Playground }) {
  const { conversation } = playground;
  const offline = playground.connection.phase === "offline";
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        conversation.send();
      }}
    >
      {offline && (
        <p class="problem" role="alert">
          Offline: the server cannot be reached. What you write stays here; this page goes on when it is back.
        </p>
      )}
      <label class="unseen" for="question">
        Your question
      </label>
      <textarea
        id="question"
        rows={1}
        placeholder="Ask something"
        value={conversation.draft}
        onInput={(event) => conversation.write(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          if (!offline) conversation.send();
        }}
      />
      {conversation.going ? (
        <button type="button" class="primary" onClick={() => conversation.stop()}>
          Stop
        </button>
      ) : (
        <button class="primary" disabled={offline || conversation.draft.trim() === ""}>
          Send
        </button>
      )}
      {conversation.turns.length > 0 && (
        <button type="button" class="quiet" onClick={() => conversation.clear()}>
          New chat
        </button>
      )}
    </form>
  );
}

/** An element that is kept in sight when a question is asked, and while the reader stays near the end. */
function useFollowed(conversation: Conversation) {
  const end = useRef<HTMLDivElement>(null);
  const count = conversation.turns.length;
  useEffect(() => {
    if (count) end.current?.scrollIntoView({ block: "end" });
  }, [count]);
  useEffect(() => {
    const page = document.documentElement;
    const left = page.scrollHeight - page.scrollTop - page.clientHeight;
    if (conversation.going && left < 160) end.current?.scrollIntoView({ block: "end" });
  });
  return end;
}
