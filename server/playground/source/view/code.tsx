import { useEffect, useRef, useState } from "preact/hooks";
import { asCurl, asPython } from "../snippet";
import type { ChatBody } from "../wire";

/** A request as a command and as a program, to be copied. */
export function Code({ body, keyed, close }: { body: ChatBody; keyed: boolean; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="code-title">
      <div class="row spread">
        <h2 id="code-title">The same request elsewhere</h2>
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </div>
      <Snippet name="curl" text={asCurl(body, keyed)} />
      <Snippet name="Python" text={asPython(body, keyed)} />
    </dialog>
  );
}

function Snippet({ name, text }: { name: string; text: string }) {
  const [said, say] = useState("");
  const code = useRef<HTMLPreElement>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    } catch {
      // Pages that did not come over TLS may not write there: the reader can.
      getSelection()?.selectAllChildren(code.current!);
      say("Selected: copy it with your keyboard.");
    }
  };
  return (
    <section class="snippet">
      <div class="row spread">
        <h3>{name}</h3>
        <span class="note" role="status">
          {said}
        </span>
        <button type="button" onClick={() => void copy()}>
          Copy {name}
        </button>
      </div>
      <pre ref={code} tabIndex={0} aria-label={`The request in ${name}`} role="region">
        {text}
      </pre>
    </section>
  );
}
