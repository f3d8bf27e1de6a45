package kerasfeatx

import java.io.File
import javax.imageio.ImageIO

/** MODEL.tflite IMAGE...: a line of JSON for each image, decoded by the JVM. */
fun main(arguments: Array<String>) {
    Embedder(File(arguments[0])).use { embedder ->
        for (path in arguments.drop(1)) {
            val image = ImageIO.read(File(path))
            val pixels = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
            val embedding = embedder.embed(pixels, image.height, image.width)
            println("""{"image": "$path", "embedding": [${embedding.joinToString(", ")}]}""")
        }
    }
}
