package kerasfeatx

import java.io.File
import java.util.concurrent.Callable
import java.util.concurrent.Executors

/** What the test on the JVM compares: MODEL GALLERY OTHER_GALLERY PIXELS HEIGHT WIDTH. */
fun main(arguments: Array<String>) {
    val (model, gallery, other) = arguments.take(3).map(::File)
    val rgb = File(arguments[3]).readBytes()
    val (height, width) = arguments.drop(4).map(String::toInt)
    val argb = IntArray(height * width) { i ->
        (0..2).fold(0xff) { whole, c -> whole shl 8 or (rgb[3 * i + c].toInt() and 255) }
    }
    Embedder(model, threads = 2).use { embedder ->
        println("${embedder.height} ${embedder.width} ${embedder.fingerprint}")
        val embedding = embedder.embed(rgb, height, width)
        println(embedding.joinToString(" "))
        println(embedder.embed(argb, height, width).joinToString(" "))
        Gallery(gallery, embedder.fingerprint).use { known ->
            println("${known.items} ${known.threshold}")
            val answer = known.recognise(embedding, k = 3, threshold = -1f)
            println(answer.identity)
            answer.neighbours.forEach { println("${it.identity} ${it.similarity} ${it.item}") }
            println(known.recognise(embedding, k = 3, threshold = 2f).identity)
            val pool = Executors.newFixedThreadPool(4)
            val tasks = List(40) {
                Callable {
                    val own = embedder.embed(rgb, height, width)
                    own.contentEquals(embedding) && known.search(own, 3) == answer.neighbours
                }
            }
            println(pool.invokeAll(tasks).all { it.get() })
            pool.shutdown()
            told { known.search(FloatArray(3)) }
            told { known.search(embedding, 0) }
        }
        told { embedder.embed(rgb, height, width + 1) }
        told { Gallery(other, embedder.fingerprint) }
        told { Gallery(File("none.kfg"), embedder.fingerprint) }
        embedder.close()
        told { embedder.embed(rgb, height, width) }
    }
    told { Embedder(gallery) }
    told { Embedder(model, threads = 0) }
}

private fun told(action: () -> Unit) {
    val error = runCatching(action).exceptionOrNull()
    println("${error?.javaClass?.simpleName}: ${error?.message}")
}
