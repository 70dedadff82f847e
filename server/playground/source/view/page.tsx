import { useEffect, useState } from "preact/hooks";
import { useWatched } from "../observable";
import type { Playground } from "../playground";
import { Chat } from "./chat";
import { KeyGate } from "./key";
import { Head } from "./head";
import { MapView } from "./map";
import { Weights } from "./weights";

export type View = "chat" | "map";

export function Page({ playground }: { playground: Playground }) {
  const view = useView();
  useWatched(playground.connection);
  const { phase, preferences } = playground.connection;
  const inside = preferences !== null && phase !== "key";
  return (
    <>
      <Head connection={playground.connection} view={view} inside={inside} />
      {inside && <Weights playground={playground} />}
      <main class={inside ? "" : "alone"}>
        {phase === "key" && <KeyGate connection={playground.connection} />}
        {!inside && phase !== "key" && <Waiting phase={phase} />}
        {/* Both stay, so that neither forgets what it is at while the other is looked at. */}
        <div class="view chat" hidden={!inside || view !== "chat"}>
          <Chat playground={playground} />
        </div>
        <div class="view" hidden={!inside || view !== "map"}>
          <MapView playground={playground} />
        </div>
      </main>
    </>
  );
}

function Waiting({ phase }: { phase: string }) {
  const words = {
    connecting: "Connecting…",
    loading: "The server is loading its models. This page goes on by itself when they are there.",
    offline: "The server cannot be reached. This page tries again every second.",
  };
  return (
    <section class="gate">
      <h1>genarm playground</h1>
      <p>{words[phase as keyof typeof words] ?? ""}</p>
    </section>
  );
}

/** The view in the address, so that it can be linked and the back button works. */
function useView(): View {
  const read = (): View => (location.hash === "#map" ? "map" : "chat");
  const [view, set] = useState(read);
  useEffect(() => {
    const changed = () => set(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return view;
}
