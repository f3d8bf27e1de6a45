/** The elements of index.html that change. */
function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html: expected an element ${id}`);
  return found;
}

export const main = element('main', HTMLElement);
export const view = element('view', HTMLElement);
export const video = element('video', HTMLVideoElement);
export const picture = element('picture', HTMLImageElement);
export const invitation = element('invitation', HTMLElement);
export const strip = element('strip', HTMLUListElement);
export const cameraButton = element('camera', HTMLButtonElement);
export const pictures = element('pictures', HTMLInputElement);
export const answer = element('answer', HTMLElement);
export const measure = element('measure', HTMLElement);
export const neighbours = element('neighbours', HTMLOListElement);
export const naming = element('naming', HTMLFormElement);
export const nameField = element('name', HTMLInputElement);
export const known = element('known', HTMLDataListElement);
export const add = element('add', HTMLButtonElement);
export const count = element('count', HTMLElement);
export const identities = element('identities', HTMLUListElement);
export const threshold = element('threshold', HTMLInputElement);
export const shownThreshold = element('shown', HTMLOutputElement);
export const importFile = element('import', HTMLInputElement);
export const exportButton = element('export', HTMLButtonElement);
export const modelFile = element('model', HTMLInputElement);
export const ownModel = element('own', HTMLButtonElement);
export const about = element('about', HTMLElement);
export const message = element('message', HTMLElement);
export const told = element('told', HTMLElement);
export const trouble = element('trouble', HTMLElement);
export const closeMessage = element('close', HTMLButtonElement);

export function text(value: string, className = ''): HTMLSpanElement {
  const made = document.createElement('span');
  made.textContent = made.title = value;
  made.className = className;
  return made;
}

export function button(label: string, action: () => void): HTMLButtonElement {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = label;
  made.onclick = action;
  return made;
}

export function row(...children: HTMLElement[]): HTMLLIElement {
  const made = document.createElement('li');
  made.append(...children);
  return made;
}

/** Images of files in a list that is made anew; the addresses of those before are freed. */
export class Images {
  private addresses: string[] = [];

  clear(): void {
    for (const address of this.addresses.splice(0)) URL.revokeObjectURL(address);
  }

  of(file: Blob): HTMLImageElement {
    const made = document.createElement('img');
    this.addresses.push(URL.createObjectURL(file));
    made.src = this.addresses.at(-1)!;
    made.alt = '';
    return made;
  }
}

export function say(value: string, isTrouble = false): void {
  told.textContent = isTrouble ? '' : value;
  trouble.textContent = isTrouble ? value : '';
  message.hidden = value === '';
}
