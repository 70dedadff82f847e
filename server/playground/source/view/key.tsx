import { useState } from "preact/hooks";
import type { Connection } from "../connection";

export function KeyGate({ connection }: { connection: Connection }) {
  const [key, set] = useState("");
  return (
    <section class="gate">
      <h1>This server wants a key</h1>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          connection.giveKey(key);
        }}
      >
        <label for="key">API key</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          value={key}
          aria-describedby="key-note"
          aria-invalid={connection.refusal !== ""}
          onInput={(event) => set(event.currentTarget.value)}
        />
        <button class="primary">Go on</button>
      </form>
      <p id="key-note" class="note">
        It stays in this tab and is sent to this server only.
      </p>
      {connection.refusal && (
        <p class="problem" role="alert">
          {connection.refusal}
        </p>
      )}
    </section>
  );
}
