import { Connection } from "./connection";
import { Conversation } from "./conversation";
import demo from "./demo.json";
import { Settings } from "./settings";
import { Sweep } from "./sweep";
import { Weighing } from "./weighing";

/** Everything the page knows; each part owns its own state. */
export class Playground {
  readonly settings = new Settings();
  readonly weighing: Weighing = new Weighing((weights) => this.conversation.steer(weights));
  readonly connection = new Connection((preferences) => this.weighing.offer(preferences));
  readonly conversation: Conversation = new Conversation(
    this.connection,
    this.settings,
    () => this.weighing.weights,
    () => this.paced,
  );
  readonly sweep = new Sweep(this.connection, () => this.settings.choices);

  /** Questions worth asking the model that is served. */
  get suggestions(): string[] {
    return this.isDemo ? demo.prompts : [];
  }

  /** The demo's models write faster than anybody reads. */
  get paced(): boolean {
    return this.settings.choices.paced ?? this.isDemo;
  }

  /** The reward that words are tinted by, or "". */
  get tint(): string {
    const { tint } = this.settings.choices;
    const names = this.weighing.rewards.map((reward) => reward.name);
    if (tint === "" || (tint !== null && names.includes(tint))) return tint;
    return names.find((name) => this.weighing.weights[name]) ?? names[0] ?? "";
  }

  private get isDemo(): boolean {
    return this.connection.model === demo.model;
  }
}
