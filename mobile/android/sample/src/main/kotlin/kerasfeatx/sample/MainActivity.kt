package kerasfeatx.sample

import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import java.util.concurrent.Executors
import kerasfeatx.Embedder
import kerasfeatx.Gallery
import kerasfeatx.assetFile
import kerasfeatx.embed

/** Says whose image a picked one is, by `model.tflite` and `gallery.kfg` among the assets. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private lateinit var embedder: Embedder
    private lateinit var gallery: Gallery
    private lateinit var text: TextView

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        embedder = Embedder(assetFile("model.tflite"), threads = 2)
        gallery = Gallery(assetFile("gallery.kfg"), embedder.fingerprint)
        val pick = registerForActivityResult(PickVisualMedia()) { it?.let(::recognise) }
        text = TextView(this)
        val button = Button(this).apply {
            setText("Pick an image")
            setOnClickListener { pick.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }
        }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                setPadding(48, 96, 48, 48)
                addView(button)
                addView(text)
            },
        )
    }

    private fun recognise(image: Uri) = worker.execute {
        // Turns it upright, as training does.
        val source = ImageDecoder.createSource(contentResolver, image)
        val bitmap = ImageDecoder.decodeBitmap(source) { decoder, _, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        }
        val started = System.nanoTime()
        val answer = gallery.recognise(embedder.embed(bitmap), k = 3)
        val milliseconds = (System.nanoTime() - started) / 1e6
        val lines = answer.neighbours.map { "%.3f  %s".format(it.similarity, it.identity) }
        val said = (listOf(answer.identity ?: "nobody known") + lines).joinToString("\n")
        runOnUiThread { text.text = "%s\n%.1f ms".format(said, milliseconds) }
    }

    override fun onDestroy() {
        worker.shutdown()
        gallery.close()
        embedder.close()
        super.onDestroy()
    }
}
