// The camera's settings and snapshots (docs/control.md): what the device tells of them, the panel
// that sets them, and the file that a snapshot becomes.
//
//   merged, labelOf, fileName   pure
//   Incoming                    a file that comes in pieces
//   SettingsPanel               draws what there is to set, sends what is set

/** A slider that is being dragged sends its value this often, and waits for the reply before. */
const SEND_EVERY = 100;
/** A file of which nothing came for so long is given up. */
const PIECE_WITHIN = 10_000;
/** The longest file, as the device has it. */
const MAX_FILE_BYTES = 8 * 1024 * 1024;

const LABELS = {
  backlight_compensation: 'Backlight compensation',
  gain_automatic: 'Automatic gain',
  hue_automatic: 'Automatic hue',
  auto_exposure: 'Exposure mode',
  exposure_dynamic_framerate: 'Slower in the dark',
  exposure_time_absolute: 'Exposure time',
  auto_exposure_bias: 'Exposure compensation',
  white_balance_automatic: 'Automatic white balance',
  white_balance_auto_preset: 'White balance',
  do_white_balance: 'White balance now',
  white_balance_temperature: 'White balance temperature',
  red_balance: 'Red',
  blue_balance: 'Blue',
  focus_automatic_continuous: 'Automatic focus',
  focus_absolute: 'Focus',
  zoom_absolute: 'Zoom',
  pan_absolute: 'Pan',
  pan_reset: 'Centre pan',
  tilt_absolute: 'Tilt',
  tilt_reset: 'Centre tilt',
  power_line_frequency: 'Flicker of lamps',
  horizontal_flip: 'Mirror',
  vertical_flip: 'Upside down',
  rotate: 'Rotation',
  color_effects: 'Colour effects',
};

/** What can be set, after a message of the device; null if it is about something else. */
export function merged(controls, message) {
  if (!Array.isArray(message.controls)) return null;
  if (message.type === 'controls') return message.controls;
  if (message.type !== 'controls_changed') return null;
  return controls.map((old) => message.controls.find((c) => c.id === old.id) ?? old);
}

/** The name of a control, for people. */
export function labelOf({ id, name }) {
  return LABELS[id] ?? (name || id);
}

/** The name of a snapshot's file: room and the viewer's local time. */
export function fileName(room, date) {
  const two = (n) => String(n).padStart(2, '0');
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  const time = [two(date.getHours()), two(date.getMinutes()), two(date.getSeconds())].join('-');
  return `${room}-${day}-${time}.jpg`;
}

/** A file that was announced: `bytes` long, of the media type `type`. */
export class Incoming {
  #announced;
  #pieces = [];
  #length = 0;
  #accept;
  #reject;
  #timer = 0;

  constructor(announced) {
    this.#announced = announced;
    this.file = new Promise((accept, reject) => {
      this.#accept = accept;
      this.#reject = reject;
    });
    this.file.catch(() => {}); // whoever awaits it sees the error
    if (!(announced.bytes > 0 && announced.bytes <= MAX_FILE_BYTES)) this.fail('The device sent no picture');
    else this.#wait();
  }

  /** Whether all of it is here, or nothing more is waited for. */
  done = false;

  piece(bytes) {
    if (this.done) return;
    this.#pieces.push(bytes);
    this.#length += bytes.byteLength;
    if (this.#length < this.#announced.bytes) {
      this.#wait();
    } else if (this.#length > this.#announced.bytes) {
      this.fail('The device sent another picture than it said');
    } else {
      this.#end();
      this.#accept(new Blob(this.#pieces, { type: this.#announced.type }));
    }
  }

  fail(words) {
    this.#end();
    this.#reject(new Error(words));
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.fail('The picture did not come'), PIECE_WITHIN);
  }

  #end() {
    clearTimeout(this.#timer);
    this.done = true;
  }
}

/** Lets the viewer keep a file. */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser takes it within the click; on phones a little later.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Sliders, switches, menus and buttons for what the camera has. */
export class SettingsPanel {
  #list;
  #set;
  #rows = new Map();
  #drawn = '';

  /** list: the element to fill · set(control, value): a promise, which rejects where the device refuses. */
  constructor(list, set) {
    this.#list = list;
    this.#set = set;
  }

  /** Shows `controls`, and leaves alone what is being set just now. */
  draw(controls) {
    const kinds = JSON.stringify(controls.map(({ id, name, type, menu }) => [id, name, type, menu]));
    if (kinds !== this.#drawn) {
      this.#drawn = kinds;
      this.#rows = new Map(controls.map((c) => [c.id, new Row(c, (value) => this.#set(c.id, value))]));
      this.#list.replaceChildren(...[...this.#rows.values()].map((row) => row.element));
    }
    for (const control of controls) this.#rows.get(control.id).draw(control);
  }
}

/** One control: its label, what sets it, and its value. */
class Row {
  element = document.createElement('div');
  #input;
  #output = document.createElement('output');
  #control;
  #set;
  #wanted = null;
  #busy = false;

  constructor(control, set) {
    this.#set = set;
    this.#input = inputFor(control);
    const { element } = this;
    const input = this.#input;
    element.className = 'setting';
    element.dataset.type = control.type;
    input.id = `setting-${control.id}`;
    if (control.type === 'button') {
      input.addEventListener('click', () => this.#want(1));
      element.append(input);
      return;
    }
    const label = document.createElement('label');
    label.htmlFor = input.id;
    label.textContent = labelOf(control);
    element.append(label, input);
    if (control.type === 'integer') {
      // A screen reader says the slider's value itself.
      this.#output.setAttribute('aria-hidden', 'true');
      label.after(this.#output);
    }
    input.addEventListener('input', () => {
      const value = control.type === 'boolean' ? Number(input.checked) : Number(input.value);
      this.#output.textContent = value;
      this.#want(value);
    });
  }

  draw(control) {
    this.#control = control;
    const input = this.#input;
    input.disabled = control.read_only || control.inactive;
    input.title = control.inactive ? 'The camera sets this by itself now' : '';
    if (this.#busy) return;
    if (control.type === 'boolean') input.checked = control.value !== 0;
    else if (control.type === 'integer') [input.min, input.max, input.step] = [control.minimum, control.maximum, control.step];
    if (control.type === 'integer' || control.type === 'menu') input.value = control.value;
    this.#output.textContent = control.value;
  }

  /** Sends the newest value, one at a time; what was wanted in between is passed over. */
  async #want(value) {
    this.#wanted = value;
    if (this.#busy) return;
    this.#busy = true;
    while (this.#wanted !== null) {
      const next = this.#wanted;
      this.#wanted = null;
      const pause = new Promise((done) => { setTimeout(done, SEND_EVERY); });
      await this.#set(next);
      await pause;
    }
    this.#busy = false;
    this.draw(this.#control);
  }
}

function inputFor(control) {
  if (control.type === 'button') {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = labelOf(control);
    return button;
  }
  if (control.type === 'menu') {
    const select = document.createElement('select');
    for (const { value, name } of control.menu ?? []) select.add(new Option(name, value));
    return select;
  }
  const input = document.createElement('input');
  input.type = control.type === 'boolean' ? 'checkbox' : 'range';
  if (control.type === 'boolean') input.setAttribute('role', 'switch');
  return input;
}
