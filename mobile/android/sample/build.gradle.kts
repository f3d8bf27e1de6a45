plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "kerasfeatx.sample"
    compileSdk = 35

    defaultConfig {
        applicationId = "kerasfeatx.sample"
        minSdk = 28
        targetSdk = 35
        versionCode = 1
        versionName = "1"
    }
    // A model and a gallery are opened where they lie in the package.
    androidResources { noCompress += listOf("tflite", "kfg") }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation(project(":library"))
    implementation("androidx.activity:activity-ktx:1.9.3")
}
