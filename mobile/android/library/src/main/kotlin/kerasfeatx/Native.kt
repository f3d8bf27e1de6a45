package kerasfeatx

/** What is told of a model, a gallery or an image that cannot be used, in one line. */
class EmbedException(message: String) : RuntimeException(message)

/** The C++ library; `embed_jni.cc` has the other side. Handles are addresses, 0 is none. */
internal object Native {
    init {
        System.loadLibrary("keras_featx_jni")
    }

    external fun openModel(path: String, threads: Int): Long

    external fun closeModel(model: Long)

    external fun imageSize(model: Long): IntArray

    external fun modelFingerprint(model: Long): String

    external fun embedArgb(model: Long, pixels: IntArray, height: Int, width: Int): FloatArray

    external fun embedRgb(model: Long, pixels: ByteArray, height: Int, width: Int): FloatArray

    external fun openGallery(path: String, fingerprint: String, check: Boolean): Long

    external fun closeGallery(gallery: Long)

    external fun gallerySize(gallery: Long): Long

    /** NaN where the file has none. */
    external fun threshold(gallery: Long): Float

    external fun search(gallery: Long, query: FloatArray, k: Int): Array<Match>
}

/** A handle that is closed once, and used by one thread at a time. */
internal class Handle(private var address: Long, private val close: (Long) -> Unit) {
    @Synchronized
    fun <T> use(action: (Long) -> T): T {
        check(address != 0L) { "it is closed" }
        return action(address)
    }

    @Synchronized
    fun close() {
        if (address != 0L) close(address)
        address = 0L
    }
}
