package kerasfeatx

import java.io.File

/**
 * Embeds images by a `.tflite` of keras-featx export.
 *
 * Any thread may call it; one embedding is made at a time. Close it when it is no longer needed.
 *
 * @param model the file
 * @param threads that an embedding uses
 * @throws EmbedException if the file cannot be used
 */
class Embedder(model: File, threads: Int = 1) : AutoCloseable {
    init {
        require(threads >= 1) { "threads: expected at least 1, got $threads" }
    }

    private val handle = Handle(Native.openModel(model.path, threads), Native::closeModel)

    /** What the network takes; images of other sizes are resized as in training. */
    val height: Int = handle.use(Native::imageSize)[0]
    val width: Int = handle.use(Native::imageSize)[1]

    /** Of its embeddings; a gallery of another is refused. */
    val fingerprint: String = handle.use(Native::modelFingerprint)

    /**
     * Embeds an upright image: a vector of norm 1.
     *
     * @param pixels alpha, red, green and blue in a number each, as `Bitmap.getPixels` gives them
     */
    fun embed(pixels: IntArray, height: Int, width: Int): FloatArray {
        checkSize(pixels.size, 1, height, width)
        return handle.use { Native.embedArgb(it, pixels, height, width) }
    }

    /**
     * Embeds an upright image: a vector of norm 1.
     *
     * @param pixels red, green and blue, a byte each, row by row
     */
    fun embed(pixels: ByteArray, height: Int, width: Int): FloatArray {
        checkSize(pixels.size, 3, height, width)
        return handle.use { Native.embedRgb(it, pixels, height, width) }
    }

    override fun close() = handle.close()

    private fun checkSize(got: Int, each: Int, height: Int, width: Int) {
        require(height >= 1 && width >= 1) { "expected an image, got $height x $width pixels" }
        val wanted = each.toLong() * height * width
        require(got.toLong() == wanted) { "pixels: expected $wanted numbers, got $got" }
    }
}
