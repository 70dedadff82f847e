// The official Node client in the release of PACKAGE: chats, tools, completions, responses, errors.
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";

const { API_KEY, BASE_URL, MODEL, PACKAGE, SMALL_URL } = process.env;
const { default: OpenAI } = await import(PACKAGE);
const { zodResponseFormat } = await import(`${PACKAGE}/helpers/zod`);

const client = new OpenAI({ apiKey: API_KEY, baseURL: `${BASE_URL}/v1`, maxRetries: 0 });
const messages = [{ role: "user", content: "how do I clean the oven?" }];
const guided = { preferences: { helpful: 0.5, harmless: 1.5 }, guidance: { beta: 2 } };

const look = {
  name: "look",
  description: "Looks around.",
  parameters: {
    type: "object",
    properties: { far: { type: "boolean" } },
    required: ["far"],
    additionalProperties: false,
  },
};

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

test("a stream is the whole answer in pieces, guided by fields of ours", async () => {
  const fields = { model: MODEL, messages, max_tokens: 30, seed: 3, ...guided };
  const whole = await client.chat.completions.create(fields);
  const chunks = await all(
    await client.chat.completions.create({ ...fields, stream: true, stream_options: { include_usage: true } }),
  );
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.equal(choices.map((choice) => choice.delta.content ?? "").join(""), whole.choices[0].message.content);
  assert.equal(choices[0].delta.role, "assistant");
  assert.equal(choices.at(-1).finish_reason, whole.choices[0].finish_reason);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.deepEqual(whole.guidance.preferences, { helpful: 0.5, harmless: 1.5 });
});

test("the stream helper collects choices, usage and log-probs", async () => {
  const fields = { model: `${MODEL}:kind`, messages, max_tokens: 12, seed: 5, n: 2, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create(fields);
  const collected = await client.chat.completions.stream(fields).finalChatCompletion();
  for (const [index, choice] of whole.choices.entries()) {
    assert.equal(collected.choices[index].message.content, choice.message.content);
    assert.equal(collected.choices[index].finish_reason, choice.finish_reason);
    assert.deepEqual(collected.choices[index].logprobs.content, choice.logprobs.content);
  }
});

test("the tool runner calls the function and goes on with its result", async () => {
  const seen = [];
  const runner = client.chat.completions.runTools(
    {
      model: MODEL,
      messages,
      max_tokens: 300,
      tool_choice: { type: "function", function: { name: "look" } },
      parallel_tool_calls: false,
      tools: [
        {
          type: "function",
          function: {
            ...look,
            parse: JSON.parse,
            function: (asked) => {
              seen.push(asked);
              return "green";
            },
          },
        },
      ],
    },
    { maxChatCompletions: 2 },
  );
  await runner.done();
  assert.ok(seen.length >= 1);
  assert.ok(seen.every((asked) => typeof asked.far === "boolean"));
  assert.ok(runner.messages.some((message) => message.role === "tool" && message.content === "green"));
});

test("a streamed call has the pieces of the whole one", async () => {
  const fields = {
    model: `${MODEL}:mixed`,
    messages,
    max_tokens: 300,
    seed: 11,
    tools: [{ type: "function", function: look }],
    tool_choice: "required",
    parallel_tool_calls: false,
  };
  const whole = await client.chat.completions.create(fields);
  const streamed = await client.chat.completions.stream(fields).finalChatCompletion();
  const [call] = whole.choices[0].message.tool_calls;
  const [other] = streamed.choices[0].message.tool_calls;
  assert.deepEqual(other.function.arguments, call.function.arguments);
  assert.equal(other.function.name, "look");
  assert.equal(streamed.choices[0].finish_reason, "tool_calls");
});

test("a zod schema is filled", async () => {
  const Weather = z.object({ sky: z.enum(["clear", "rain"]), windy: z.boolean() });
  const answer = await client.chat.completions.parse({
    model: `${MODEL}:kind`,
    messages,
    max_tokens: 200,
    response_format: zodResponseFormat(Weather, "weather"),
  });
  Weather.parse(answer.choices[0].message.parsed);
});

test("completions answer several prompts in order, and score one", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: ["water", "the oven"], max_tokens: 5, n: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  const scored = await client.completions.create({ model: MODEL, prompt: [20, 30, 40], max_tokens: 0, echo: true, logprobs: 1 });
  assert.equal(scored.choices[0].logprobs.token_logprobs.length, 3);
  assert.equal(scored.choices[0].logprobs.token_logprobs[0], null);
  const fields = { model: MODEL, prompt: "water the plants", max_tokens: 8, seed: 1 };
  const whole = await client.completions.create(fields);
  const chunks = await all(await client.completions.create({ ...fields, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
});

test("a response streams what it answers", async () => {
  const fields = { model: `${MODEL}:kind`, input: "hello", max_output_tokens: 16, temperature: 0 };
  const whole = await client.responses.create(fields);
  const events = await all(await client.responses.create({ ...fields, stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  assert.deepEqual(events.at(-1).response.usage, whole.usage);
  const collected = await client.responses.stream(fields).finalResponse();
  assert.equal(collected.output_text, whole.output_text);
});

test("models and presets are listed", async () => {
  const listed = await all(await client.models.list());
  assert.deepEqual(listed.map((model) => model.id), [MODEL, `${MODEL}:kind`, `${MODEL}:mixed`]);
  assert.equal((await client.models.retrieve(`${MODEL}:kind`)).id, `${MODEL}:kind`);
});

test("errors have the client's types and name the field", async () => {
  await assert.rejects(client.chat.completions.create({ model: MODEL, messages, temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    assert.equal(error.type, "invalid_request_error");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.chat.completions.create({ model: "other", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${BASE_URL}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("the client comes back until there is a place", async () => {
  const tries = [];
  const counted = (url, init) => {
    tries.push(new Headers(init.headers).get("x-stainless-retry-count"));
    return fetch(url, init);
  };
  const options = { apiKey: API_KEY, baseURL: `${SMALL_URL}/v1` };
  const holder = new OpenAI({ ...options, maxRetries: 0 });
  const stream = await holder.chat.completions.create({
    model: MODEL,
    messages,
    max_tokens: 900,
    ignore_eos: true,
    stream: true,
  });
  await assert.rejects(
    new OpenAI({ ...options, maxRetries: 0 }).chat.completions.create({ model: MODEL, messages, max_tokens: 1 }),
    OpenAI.RateLimitError,
  );
  setTimeout(() => stream.controller.abort(), 300);
  const answer = await new OpenAI({ ...options, maxRetries: 5, fetch: counted }).chat.completions.create({
    model: MODEL,
    messages,
    max_tokens: 1,
  });
  assert.equal(answer.usage.completion_tokens, 1);
  assert.ok(tries.length >= 2);
  assert.deepEqual(tries, tries.map((_, index) => String(index)));
});
