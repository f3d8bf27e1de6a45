/** What a person is told in one sentence. */
export class Refused extends Error {}
