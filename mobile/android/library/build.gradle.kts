plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

// LiteRT's shared library for each kind of processor, out of its Android archive.
val litert by configurations.creating
val litertFolder = layout.buildDirectory.dir("litert")
val unpackLitert by tasks.registering(Sync::class) {
    from({ litert.map(::zipTree) }) { include("jni/**/libLiteRt.so") }
    into(litertFolder)
}

android {
    namespace = "kerasfeatx"
    compileSdk = 35
    ndkVersion = "27.2.12479018"

    defaultConfig {
        minSdk = 26
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
        externalNativeBuild {
            cmake {
                targets += "keras_featx_jni"
                arguments += listOf(
                    "-DKERAS_FEATX_JNI=ON",
                    "-DANDROID_STL=c++_shared",
                    "-DLITERT_ROOT=${litertFolder.get().asFile}/jni",
                )
            }
        }
    }
    externalNativeBuild { cmake { path = file("../../cpp/CMakeLists.txt") } }
    sourceSets["main"].kotlin.srcDir("src/android/kotlin")
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    litert("com.google.ai.edge.litert:litert:2.3.0@aar")
    // Its library is loaded by ours, so it must be in the app.
    implementation("com.google.ai.edge.litert:litert:2.3.0")
}

tasks.configureEach { if (name.startsWith("configureCMake")) dependsOn(unpackLitert) }
