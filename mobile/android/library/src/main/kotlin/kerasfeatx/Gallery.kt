package kerasfeatx

import java.io.File

/** An item of a gallery that is near to a query. */
data class Match(val identity: String, val similarity: Float, val item: Long)

/**
 * What is said of an image.
 *
 * @property identity whose it is, or null where the best similarity is below the threshold
 * @property neighbours the nearest items, best first
 */
data class Answer(val identity: String?, val neighbours: List<Match>)

/**
 * A gallery file, memory-mapped. Any thread may ask it; one search is made at a time.
 *
 * @param file of `keras-featx gallery pack`
 * @param fingerprint of the model that asks, [Embedder.fingerprint]
 * @param check compare the checksum of all of the file, which reads it once
 * @throws EmbedException if the file cannot be used, or is of another model
 */
class Gallery(file: File, fingerprint: String, check: Boolean = true) : AutoCloseable {
    private val handle =
        Handle(Native.openGallery(file.path, fingerprint, check), Native::closeGallery)

    /** How many items it has. */
    val items: Long = handle.use(Native::gallerySize)

    /** Cosine from which on two images are taken for the same; null where the file has none. */
    val threshold: Float? = handle.use(Native::threshold).takeUnless(Float::isNaN)

    /**
     * The nearest items of an embedding, best first.
     *
     * @throws EmbedException on an embedding of another size
     */
    fun search(embedding: FloatArray, k: Int = 5): List<Match> {
        require(k >= 1) { "k: expected at least 1, got $k" }
        return handle.use { Native.search(it, embedding, k) }.toList()
    }

    /** Whose image it is that has this embedding. */
    fun recognise(embedding: FloatArray, k: Int = 5, threshold: Float? = this.threshold): Answer {
        val found = search(embedding, k)
        val known = found.firstOrNull()?.takeIf { threshold == null || it.similarity >= threshold }
        return Answer(known?.identity, found)
    }

    override fun close() = handle.close()
}
