package kerasfeatx

import android.content.Context
import android.graphics.Bitmap
import java.io.File

/** Embeds an upright bitmap; it stays as it is. */
fun Embedder.embed(bitmap: Bitmap): FloatArray {
    // Hardware bitmaps cannot be read.
    val readable =
        if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap
        else bitmap.copy(Bitmap.Config.ARGB_8888, false)
    val pixels = IntArray(readable.width * readable.height)
    readable.getPixels(pixels, 0, readable.width, 0, 0, readable.width, readable.height)
    return embed(pixels, readable.height, readable.width)
}

/** An asset as a file, as a model and a gallery are opened from; copied when its size changes. */
fun Context.assetFile(name: String): File {
    val file = File(filesDir, name)
    val length = assets.openFd(name).use { it.length }
    if (file.length() != length) {
        val beside = File.createTempFile(name, null, filesDir)
        assets.open(name).use { from -> beside.outputStream().use(from::copyTo) }
        check(beside.renameTo(file)) { "$file: cannot be written" }
    }
    return file
}
