import { Refused } from './refused';

// Looks so often at most, in milliseconds.
const EVERY = 120;

/** A camera shown in a video element. */
export class Camera {
  private stream: MediaStream | undefined;

  constructor(private readonly video: HTMLVideoElement) {}

  get isOn(): boolean {
    return this.stream !== undefined;
  }

  /** Turns it on and looks again and again; `ended` is called should the camera go away. */
  async start(look: () => Promise<void>, ended: () => void): Promise<void> {
    if (!navigator.mediaDevices) {
      throw new Refused('The camera needs a page of https, or of this device (localhost)');
    }
    let stream: MediaStream;
    try {
      const size = { width: { ideal: 640 }, height: { ideal: 480 } };
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', ...size } });
    } catch (error) {
      throw new Refused(`There is no camera that may be used: ${error instanceof Error ? error.message : error}`);
    }
    this.stream = stream;
    if (document.hidden) return this.stop(); // while a person was asked
    this.video.srcObject = stream;
    await this.video.play();
    void this.watch(stream, look, ended);
  }

  stop(): void {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = undefined;
    this.video.srcObject = null;
  }

  private async watch(stream: MediaStream, look: () => Promise<void>, ended: () => void): Promise<void> {
    while (this.stream === stream) {
      if (!stream.active) return ended();
      const started = performance.now();
      if (this.video.videoWidth > 0) await look();
      const rest = Math.max(0, EVERY - (performance.now() - started));
      await new Promise((resolve) => setTimeout(resolve, rest));
    }
  }
}
